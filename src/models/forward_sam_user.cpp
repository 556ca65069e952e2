#include <ATen/core/Tensor.h>

#include <algorithm>

#include "forward_sam.hpp"
#include "tessera/core/error.hpp"

namespace tessera::models {
namespace {

void check_rows(const char* name, const at::Tensor& tensor, std::int64_t pictures) {
  if (tensor.defined() && tensor.size(0) != pictures)
    throw RequestError("inputs: '{}' is for {} pictures, there are {}", name, tensor.size(0), pictures);
}

/// One set of prompts, with and without several masks.
class SetDecoder {
 public:
  SetDecoder(const SamPromptEncoder& prompts, const SamMaskDecoder& decoder, const at::Tensor& embeddings,
             NamedTensors& found)
      : prompts_(prompts), decoder_(decoder), embeddings_(embeddings), found_(found) {}

  void operator()(const std::string& name, const SamUserInputs& set) const {
    const at::Tensor& any = set.points.defined() ? set.points : set.boxes;
    const std::int64_t images = any.size(0);
    const std::int64_t each = any.size(1);
    const SamPromptEmbeddings encoded = prompts_(flatten(set, each));
    const auto unflatten = [&](const at::Tensor& x) { return x.unflatten(0, {images, each}); };
    found_.emplace_back("sparse_embeddings." + name, unflatten(encoded.sparse));
    const at::Tensor rows = embeddings_.repeat_interleave(each, 0);
    for (const bool many : {true, false}) {
      const SamMasks masks = decoder_(rows, prompts_.image_pe(), encoded, many, {});
      const std::string tail = "." + name + (many ? ".multi" : ".single");
      found_.emplace_back("low_res_masks" + tail, unflatten(masks.low_res));
      found_.emplace_back("iou_predictions" + tail, unflatten(masks.iou));
    }
  }

 private:
  static SamPrompts flatten(const SamUserInputs& set, std::int64_t each) {
    SamPrompts flat;
    if (set.points.defined()) {
      flat.points = set.points.flatten(0, 1);
      flat.labels = set.labels.flatten(0, 1).to(at::kLong);
    }
    if (set.boxes.defined()) flat.boxes = set.boxes.flatten(0, 1);
    // A picture's mask goes with each of its prompts.
    if (set.masks.defined()) flat.masks = set.masks.repeat_interleave(each, 0);
    return flat;
  }

  const SamPromptEncoder& prompts_;
  const SamMaskDecoder& decoder_;
  const at::Tensor& embeddings_;
  NamedTensors& found_;
};

}  // namespace

ImageSize read_image_size(Inputs& inputs, const std::string& name) {
  const auto size = inputs.take_integers(name);
  if (size.size() != 2 || size[0] < 1 || size[1] < 1)
    throw RequestError("inputs: '{}' must be two positive integers", name);
  return {size[0], size[1]};
}

SamUserInputs SamUserInputs::take(Inputs& inputs, std::int64_t pictures) {
  SamUserInputs given;
  given.points = inputs.take_optional("input_points", 4);
  given.labels = inputs.take_optional("input_labels", 3);
  given.boxes = inputs.take_optional("input_boxes", 3);
  given.masks = inputs.take_optional("input_masks", 4);
  given.cotangents = inputs.take_prefixed("cotangent.");
  if (given.points.defined() != given.labels.defined())
    throw RequestError("inputs: input_points and input_labels go together");
  check_rows("input_points", given.points, pictures);
  check_rows("input_labels", given.labels, pictures);
  check_rows("input_boxes", given.boxes, pictures);
  check_rows("input_masks", given.masks, pictures);
  if (given.points.defined() && (given.points.size(3) != 2 || given.labels.sizes() != given.points.sizes().slice(0, 3)))
    throw RequestError("inputs: input_points must be [B,n,k,2] and input_labels [B,n,k]");
  if (given.boxes.defined() && given.boxes.size(2) != 4) throw RequestError("inputs: input_boxes must be [B,n,4]");
  if (given.points.defined() && given.boxes.defined() && given.points.size(1) != given.boxes.size(1)) {
    throw RequestError("inputs: {} prompts of points and {} boxes; a set of both needs as many", given.points.size(1),
                       given.boxes.size(1));
  }
  if (!inputs.has("input_size.0") && !inputs.has("original_size.0")) return given;
  for (std::int64_t i = 0; i < pictures; ++i) {
    const std::string tail = "." + std::to_string(i);
    given.resized.push_back(read_image_size(inputs, "input_size" + tail));
    given.original.push_back(read_image_size(inputs, "original_size" + tail));
  }
  return given;
}

NamedTensors decode_user_prompts(const SamPromptEncoder& prompts, const SamMaskDecoder& decoder,
                                 const SamUserInputs& given, const at::Tensor& embeddings) {
  NamedTensors found;
  found.emplace_back("image_pe", prompts.image_pe());
  if (given.masks.defined()) {
    SamPrompts only;
    only.masks = given.masks;
    found.emplace_back("dense_embeddings.mask", prompts(only).dense);
  }
  const SetDecoder decode(prompts, decoder, embeddings, found);
  const auto sets = [&](const std::string& tail, const at::Tensor& masks) {
    const auto only = [&](bool points, bool boxes) {
      SamUserInputs set;
      if (points) set.points = given.points;
      if (points) set.labels = given.labels;
      if (boxes) set.boxes = given.boxes;
      set.masks = masks;
      return set;
    };
    if (given.points.defined()) decode("points" + tail, only(true, false));
    if (given.boxes.defined()) decode("boxes" + tail, only(false, true));
    if (given.points.defined() && given.boxes.defined()) decode("points_boxes" + tail, only(true, true));
  };
  sets("", {});
  if (given.masks.defined()) sets("_mask", given.masks);
  return found;
}

void finish_user(ForwardModel::Result& result, const NamedTensors& found, const SamUserInputs& given,
                 std::int64_t image_size) {
  TensorMap left = given.cotangents;
  for (const auto& [name, value] : found) {
    result.outputs[name] = value.detach();
    if (const auto at = left.find(name); at != left.end()) {
      if (at->second.sizes() != value.sizes())
        throw RequestError("inputs: 'cotangent.{}' must be shaped like that output", name);
      const at::Tensor term = value.to(at::kFloat).mul(at->second).sum();
      result.objective = result.objective.defined() ? result.objective.add(term) : term;
      left.erase(at);
    }
    constexpr std::string_view kMasks = "low_res_masks.";
    if (!name.starts_with(kMasks)) continue;
    for (std::size_t i = 0; i < given.original.size(); ++i) {
      const at::Tensor masks = value.detach().select(0, static_cast<std::int64_t>(i));
      result.outputs["pred_masks." + name.substr(kMasks.size()) + "." + std::to_string(i)] =
          postprocess_masks(masks, image_size, given.resized[i], given.original[i]);
    }
  }
  if (!left.empty()) throw RequestError("inputs: 'cotangent.{}' belongs to no output", left.begin()->first);
  if (result.objective.defined()) result.outputs["loss"] = result.objective.detach();
}

}  // namespace tessera::models
