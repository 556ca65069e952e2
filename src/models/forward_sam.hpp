#pragma once
// SAM's own prompts (points, boxes, masks) behind `tessera forward`.
#include <utility>

#include "forward_models.hpp"
#include "tessera/models/sam.hpp"

namespace tessera::models {

/// B pictures, n prompts for each, k points in a prompt. Every part may be undefined.
struct SamUserInputs {
  at::Tensor points;                         ///< f32 [B,n,k,2]
  at::Tensor labels;                         ///< i64 [B,n,k]
  at::Tensor boxes;                          ///< f32 [B,n,4]
  at::Tensor masks;                          ///< f32 [B,1,4h,4w]
  std::vector<ImageSize> resized, original;  ///< one per picture, or none
  TensorMap cotangents;                      ///< by the name of the output that each multiplies

  /// Takes what is there. Throws RequestError for parts that do not go together.
  static SamUserInputs take(Inputs& inputs, std::int64_t pictures);
};

/// "<name>" of two positive integers.
ImageSize read_image_size(Inputs& inputs, const std::string& name);

using NamedTensors = std::vector<std::pair<std::string, at::Tensor>>;

/// Called inside UnitRunner::run of the decoder's unit. The sets `points`, `boxes`, `points_boxes`, and, with masks,
/// the same with the masks as dense prompt (`points_mask`, …), each with several masks and with one.
NamedTensors decode_user_prompts(const SamPromptEncoder& prompts, const SamMaskDecoder& decoder,
                                 const SamUserInputs& given, const at::Tensor& embeddings);

/// `pred_masks.<set>.<i>` where the sizes are known, and the objective where cotangents are: the sum of cotangent times
/// output. Throws RequestError for a cotangent of no output or of another shape.
void finish_user(ForwardModel::Result& result, const NamedTensors& found, const SamUserInputs& given,
                 std::int64_t image_size);

}  // namespace tessera::models
