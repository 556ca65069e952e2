#pragma once
/// SAM (Segment Anything), facebook's names and numerics, with LISA's text prompts.
///
/// Shapes: I images of S x S, E encoder width, h x w = (S/patch)^2 grid, D prompt width, n prompts of all images.
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "tessera/models/lisa_batch.hpp"
#include "tessera/nn/layers.hpp"
#include "tessera/nn/runner.hpp"

namespace tessera::models {

struct SamConfig {  // the defaults are ViT-H
  std::int64_t image_size = 1024;
  std::int64_t patch_size = 16;
  std::int64_t embed_dim = 1280;
  std::int64_t depth = 32;
  std::int64_t num_heads = 16;
  double mlp_ratio = 4.0;
  std::vector<std::int64_t> global_attn_indexes = {7, 15, 23, 31};
  std::int64_t window_size = 14;
  std::int64_t prompt_embed_dim = 256;
  std::int64_t mask_in_chans = 16;
  std::int64_t decoder_depth = 2;
  std::int64_t decoder_mlp_dim = 2048;
  std::int64_t decoder_num_heads = 8;
  std::int64_t num_multimask_outputs = 3;
  std::int64_t iou_head_depth = 3;
  std::int64_t iou_head_hidden_dim = 256;
  double norm_eps = 1e-5;  ///< of the two-way blocks' norms; transformers' own configs say 1e-6
  bool qkv_bias = true;
  bool use_abs_pos = true;  ///< without it the encoder takes pictures of any size
  bool use_rel_pos = true;
  std::int64_t grid() const { return image_size / patch_size; }
  /// `sam_config` of a LISA folder; absent keys are those of `variant` ("vit_b", "vit_l" or "vit_h"; absent: ViT-H).
  /// Throws RequestError naming the key.
  static SamConfig from_json(const nlohmann::json& json);
  /// config.json of transformers' SamModel (vision_config, prompt_encoder_config, mask_decoder_config).
  static SamConfig from_transformers(const nlohmann::json& json);
};

/// One ViT block: attention in windows (or over the whole grid), decomposed relative positions. On a grid that is not
/// the table's the table is resized linearly, as segment_anything does.
class SamBlock {
 public:
  SamBlock(const nn::Scope& scope, const SamConfig& config, std::int64_t index);
  at::Tensor operator()(const at::Tensor& x, const nn::ForwardContext& ctx) const;  ///< [I,h,w,E]

 private:
  at::Tensor attend(const at::Tensor& x, const nn::ForwardContext& ctx) const;

  std::int64_t heads_;
  std::int64_t window_;  ///< 0: global
  nn::LayerNorm norm1_, norm2_;
  nn::Linear qkv_, proj_, lin1_, lin2_;
  nn::Param rel_h_, rel_w_;
};

class SamImageEncoder {
 public:
  SamImageEncoder(nn::ModelLayout& layout, const SamConfig& config, const std::string& prefix);
  /// pixels f32 [I,3,S,S], normalised and padded, to [I,D,h,w]. `trace` receives every block's output. Without absolute
  /// positions the pictures may be [I,3,H,W] of any size from one patch up. Throws RequestError for another size.
  at::Tensor forward(const at::Tensor& pixels, nn::UnitRunner& runner, const nn::ForwardContext& ctx,
                     nn::Tensors* trace = nullptr) const;

 private:
  void check_size(const at::Tensor& pixels) const;

  SamConfig config_;
  nn::UnitId patch_unit_ = -1;
  nn::UnitId neck_unit_ = -1;
  std::vector<nn::UnitId> block_units_;
  nn::Conv2d patch_embed_, neck0_, neck2_;
  nn::Param pos_embed_;
  nn::LayerNorm2d neck1_, neck3_;
  std::vector<SamBlock> blocks_;
};

/// User prompts of one image set: points in pixels of the padded S x S picture; every part may be undefined.
struct SamPrompts {
  at::Tensor points;  ///< f32 [n,k,2] (x, y)
  at::Tensor labels;  ///< i64 [n,k]: 1 foreground, 0 background, -1 none, -10 padding (transformers': a zero vector)
  at::Tensor boxes;   ///< f32 [n,4] x0 y0 x1 y1
  at::Tensor masks;   ///< f32 [n or 1,1,4h,4w] logits
  at::Tensor text;    ///< [n,D]
};

struct SamPromptEmbeddings {
  at::Tensor sparse;  ///< [n,k',D]
  at::Tensor dense;   ///< [n,D,h,w]
};

/// Called inside UnitRunner::run of the unit it was built in.
class SamPromptEncoder {
 public:
  SamPromptEncoder() = default;
  SamPromptEncoder(const nn::Scope& scope, const SamConfig& config);
  SamPromptEmbeddings operator()(const SamPrompts& prompts) const;
  at::Tensor image_pe() const;  ///< [1,D,h,w]

 private:
  at::Tensor encode(const at::Tensor& unit_coordinates) const;  ///< [...,2] in [0,1] to [...,D]
  at::Tensor embed_points(const SamPrompts& prompts) const;
  at::Tensor embed_boxes(const at::Tensor& boxes) const;
  at::Tensor embed_masks(const at::Tensor& masks) const;

  std::int64_t image_size_ = 0;
  std::int64_t grid_ = 0;
  std::int64_t dim_ = 0;
  nn::Param gaussian_;
  std::vector<nn::Param> point_embeddings_;
  nn::Param not_a_point_, no_mask_;
  nn::Conv2d down0_, down3_, down6_;
  nn::LayerNorm2d down1_, down4_;
};

struct SamMasks {
  at::Tensor low_res;  ///< [n,m,4h,4w] logits
  at::Tensor iou;      ///< [n,m]
};

/// Query, key, value projections to `inner`, heads, output projection (the decoder's attention).
class SamAttention {
 public:
  SamAttention() = default;
  SamAttention(const nn::Scope& scope, std::int64_t dim, std::int64_t inner, std::int64_t heads);
  at::Tensor operator()(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                        const nn::ForwardContext& ctx) const;

 private:
  std::int64_t heads_ = 0;
  nn::Linear q_, k_, v_, out_;
};

/// A ReLU multilayer perceptron: layers.0 … layers.{depth-1}.
class SamMlp {
 public:
  SamMlp() = default;
  SamMlp(const nn::Scope& scope, std::int64_t in, std::int64_t hidden, std::int64_t out, std::int64_t depth);
  at::Tensor operator()(at::Tensor x, const nn::ForwardContext& ctx) const;

 private:
  std::vector<nn::Linear> layers_;
};

struct SamTwoWayBlock {
  SamAttention self_attn, token_to_image, image_to_token;
  nn::LayerNorm norm1, norm2, norm3, norm4;
  nn::Linear lin1, lin2;
  bool first = false;  ///< no positions and no residual in the self-attention
};

/// Called inside UnitRunner::run of the unit it was built in.
class SamMaskDecoder {
 public:
  SamMaskDecoder() = default;
  SamMaskDecoder(const nn::Scope& scope, const SamConfig& config);
  /// image_embeddings [n,D,h,w]: the prompt's own image, one row per prompt. multimask: masks 1…m instead of mask 0.
  SamMasks operator()(const at::Tensor& image_embeddings, const at::Tensor& image_pe,
                      const SamPromptEmbeddings& prompts, bool multimask, const nn::ForwardContext& ctx) const;

 private:
  struct Streams {
    at::Tensor tokens;  ///< [n,t,D]
    at::Tensor image;   ///< [n,h*w,D]
  };
  Streams two_way(const at::Tensor& tokens, const at::Tensor& image, const at::Tensor& pe,
                  const nn::ForwardContext& ctx) const;

  SamConfig config_;
  std::vector<SamTwoWayBlock> blocks_;
  SamAttention final_attn_;
  nn::LayerNorm final_norm_;
  nn::Param iou_token_, mask_tokens_;
  nn::ConvTranspose2d up0_, up3_;
  nn::LayerNorm2d up1_;
  std::vector<SamMlp> hyper_;
  SamMlp iou_head_;
};

/// Mask logits at the original size, fp32: bilinear to S x S, padding cut off, bilinear to the original.
/// low_res [n,m,4h,4w] to [n,m,H,W]; n may be 0.
at::Tensor postprocess_masks(const at::Tensor& low_res, std::int64_t image_size, ImageSize resized, ImageSize original);

/// Sums over the masks of one image: pred [n,H,W] logits, target [n,H,W] (not clipped). 0 for n = 0.
/// Source: dvlab-research/LISA model/LISA.py (dice on sums divided by 1000, eps 1e-6; bce a mean over the pixels of
/// each mask).
at::Tensor mask_bce_sum(const at::Tensor& pred, const at::Tensor& target);
at::Tensor mask_dice_sum(const at::Tensor& pred, const at::Tensor& target);

}  // namespace tessera::models
