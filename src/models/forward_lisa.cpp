// LISA behind `tessera forward`.
#include <nlohmann/json.hpp>

#include "forward_language.hpp"
#include "tessera/core/error.hpp"
#include "tessera/models/lisa.hpp"
#include "tessera/models/lisa_folder.hpp"

namespace tessera::models {
namespace {

/// masks_flat holds the masks one after another, image by image.
std::vector<at::Tensor> split_masks(const at::Tensor& flat, const std::vector<std::int64_t>& counts,
                                    const std::vector<ImageSize>& sizes) {
  std::vector<at::Tensor> masks;
  std::int64_t first = 0;
  for (std::size_t b = 0; b < counts.size(); ++b) {
    const std::int64_t elements = counts[b] * sizes[b].height * sizes[b].width;
    if (counts[b] < 0 || first + elements > flat.numel()) {
      throw RequestError("inputs: masks_flat has {} elements, image {} needs them up to {}", flat.numel(), b,
                         first + elements);
    }
    masks.push_back(flat.narrow(0, first, elements).view({counts[b], sizes[b].height, sizes[b].width}));
    first += elements;
  }
  if (first != flat.numel())
    throw RequestError("inputs: masks_flat has {} elements, masks_counts and label_sizes make {}", flat.numel(), first);
  return masks;
}

std::vector<ImageSize> read_sizes(Inputs& inputs, const std::string& name, std::size_t images) {
  const auto flat = inputs.take_integers(name);
  if (flat.size() != 2 * images) throw RequestError("inputs: '{}' must be [{},2]", name, images);
  std::vector<ImageSize> sizes;
  for (std::size_t b = 0; b < images; ++b) {
    if (flat[2 * b] < 1 || flat[2 * b + 1] < 1) throw RequestError("inputs: '{}' row {} is not a size", name, b);
    sizes.push_back({flat[2 * b], flat[2 * b + 1]});
  }
  return sizes;
}

LisaBatch read_batch(const TensorMap& given) {
  Inputs inputs(given);
  LisaBatch batch;
  batch.images = inputs.take("images", 4);
  batch.images_clip = inputs.take("images_clip", 4);
  batch.input_ids = inputs.take("input_ids", 2).to(at::kLong);
  batch.labels = inputs.take("labels", 2).to(at::kLong);
  batch.attention_mask = inputs.take("attention_masks", 2).to(at::kBool);
  batch.offset = inputs.take_integers("offset");
  const auto images = static_cast<std::size_t>(batch.images.size(0));
  batch.resize = read_sizes(inputs, "resize_list", images);
  batch.original = read_sizes(inputs, "label_sizes", images);
  const auto counts = inputs.take_integers("masks_counts");
  if (counts.size() != images)
    throw RequestError("inputs: masks_counts has {} entries for {} images", counts.size(), images);
  batch.masks = split_masks(inputs.take("masks_flat", 1).to(at::kFloat), counts, batch.original);
  inputs.finish();
  return batch;
}

class LisaForward final : public ForwardModel {
 public:
  LisaForward(const LisaFolder& folder, const io::SourcePtr& files) : model_(layout_, folder.lisa) {
    set_weights(files, [](const std::string& name) { return std::optional(name); });
  }

  Result compute(const TensorMap& given, nn::UnitRunner& runner) const override {
    const LisaBatch batch = read_batch(given);
    LisaForwardOptions options;
    options.full_logits = true;
    options.trace = true;
    const LisaOutputs out = model_.forward(batch, runner, {}, options);
    Result result;
    result.objective = out.loss;
    const std::map<std::string, at::Tensor> single = {{"logits", out.logits},
                                                      {"loss", out.loss},
                                                      {"ce_loss", out.ce_loss},
                                                      {"mask_bce_loss", out.mask_bce_loss},
                                                      {"mask_dice_loss", out.mask_dice_loss},
                                                      {"mask_loss", out.mask_loss},
                                                      {"final_hidden", out.final_hidden},
                                                      {"clip_features", out.clip_features},
                                                      {"projected_features", out.projected_features},
                                                      {"sam_image_embeddings", out.sam_image_embeddings},
                                                      {"pred_embeddings", out.pred_embeddings},
                                                      {"seg_positions", out.seg_positions}};
    for (const auto& [name, value] : single) result.outputs[name] = value.detach();
    put_list(result.outputs, "pred_masks", out.pred_masks);
    put_list(result.outputs, "hidden_states", out.hidden_states);
    put_list(result.outputs, "low_res_masks", out.low_res_masks);
    put_list(result.outputs, "iou_predictions", out.iou_predictions);
    return result;
  }

 private:
  bool trained_by_recipe(const nn::ParamState& param) const override {
    if (layout_.unit(param.unit).fused) return true;
    for (const char* part : {"lm_head", "embed_tokens", ".wte.", "mask_decoder", "text_hidden_fcs"}) {
      if (param.name.find(part) != std::string::npos) return true;
    }
    return false;
  }

  LisaModel model_;
};

}  // namespace

std::unique_ptr<ForwardModel> open_lisa(const ForwardRequest& request) {
  LisaFolderRequest folder;
  folder.folder = request.model;
  folder.vision_tower = request.vision_tower;
  folder.vision_pretrained = request.vision_pretrained;
  folder.hub_dir = request.hub_dir;
  LisaFolder found = read_lisa_folder(folder);
  // A finished model has the rows it has; the tokenizer may know tokens that it never got.
  const io::SourcePtr files = untied_for(request.adapters, found.lisa.language, open_lisa_weights(found));
  if (const io::TensorInfo* table = files->find(found.lisa.language.embedding_name() + ".weight");
      table != nullptr && !table->shape.empty()) {
    found.lisa.language.set_vocab_size(table->shape.front());
  }
  return std::make_unique<LisaForward>(found, files);
}

}  // namespace tessera::models
