// SAM behind `tessera forward`: text prompts with losses, or user prompts.
#include <ATen/ops/cat.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <nlohmann/json.hpp>

#include "forward_models.hpp"
#include "sam_names.hpp"
#include "tessera/core/error.hpp"
#include "tessera/core/file.hpp"
#include "tessera/io/model_folder.hpp"
#include "tessera/models/lisa.hpp"
#include "tessera/models/sam.hpp"

namespace tessera::models {
namespace {

SamConfig read_sam_config(const nlohmann::json& config) {
  if (config.contains("vision_config")) return SamConfig::from_transformers(config);
  return SamConfig::from_json(config.contains("sam_config") ? config.at("sam_config") : config);
}

/// The folder's weights; facebook's files have names of their own (sam_vit_h_4b8939.pth), so the only one there will
/// do.
io::SourcePtr open_sam_weights(const std::filesystem::path& folder) {
  if (io::find_weights(folder)) return io::open_weights(folder);
  for (const char* ending : {".pth", ".safetensors"}) {
    const auto files = list_files(folder, {ending});
    if (files.size() == 1) return io::open_weights(files.front());
    if (files.size() > 1) {
      throw RequestError("{}: {} files end in {}; name SAM's model.safetensors", folder.string(), files.size(), ending);
    }
  }
  return io::open_weights(folder);  // says what it looked for
}

class SamForward final : public ForwardModel {
 public:
  SamForward(const ForwardRequest& request, const nlohmann::json& config)
      : config_(read_sam_config(config)),
        encoder_(layout_, config_, "image_encoder"),
        unit_(layout_.add_unit("mask_decoder")),
        prompts_(nn::Scope(layout_, unit_, "prompt_encoder"), config_),
        decoder_(nn::Scope(layout_, unit_, "mask_decoder"), config_) {
    const io::SourcePtr files = open_sam_weights(request.model);
    const bool transformers = has_transformers_sam_names(*files);
    const std::int64_t depth = config_.iou_head_depth;
    set_weights(files, [transformers, depth](const std::string& name) -> std::optional<std::string> {
      return transformers ? facebook_sam_name(name, depth) : name;
    });
  }

  Result run(const TensorMap& given, nn::UnitRunner& runner) const override {
    Inputs inputs(given);
    const at::Tensor pixels = inputs.take("pixel_values", 4);
    const bool user = inputs.has("input_points") || inputs.has("input_boxes") || inputs.has("input_masks");
    if (!user) return run_text(inputs, pixels, runner);
    UserPrompts prompts{inputs.take_optional("input_points", 4), inputs.take_optional("input_labels", 3),
                        inputs.take_optional("input_boxes", 3), inputs.take_optional("input_masks", 4)};
    inputs.finish();
    return run_user(prompts, pixels, runner);
  }

 private:
  struct UserPrompts {
    at::Tensor points, labels, boxes, masks;
  };

  at::Tensor encode(const at::Tensor& pixels, nn::UnitRunner& runner, TensorMap& outputs) const {
    nn::Tensors blocks;
    at::Tensor embeddings = encoder_.forward(pixels, runner, {}, &blocks);
    put_list(outputs, "block", blocks);
    outputs["image_embeddings"] = embeddings.detach();
    return embeddings;
  }

  /// One call of the decoder's unit for the text prompts of all images.
  Result run_text(Inputs& inputs, const at::Tensor& pixels, nn::UnitRunner& runner) const {
    std::vector<at::Tensor> texts, targets;
    std::vector<ImageSize> resized, original;
    std::vector<std::int64_t> index;
    for (std::int64_t i = 0; i < pixels.size(0); ++i) {
      const std::string tail = "." + std::to_string(i);
      texts.push_back(inputs.take("text_embeds" + tail, 2));
      index.insert(index.end(), static_cast<std::size_t>(texts.back().size(0)), i);
      resized.push_back(read_size(inputs, "input_size" + tail));
      original.push_back(read_size(inputs, "original_size" + tail));
      targets.push_back(inputs.take_optional("gt_masks" + tail, 3));
      check_target(targets.back(), texts.back().size(0), original.back(), i);
    }
    inputs.finish();
    Result result;
    const at::Tensor embeddings = encode(pixels, runner, result.outputs);
    const at::Tensor rows = at::tensor(index, at::TensorOptions().dtype(at::kLong)).to(embeddings.device());
    const nn::Tensors out = runner.run(unit_, {at::cat(texts), embeddings}, [this, rows](const nn::Tensors& in) {
      SamPrompts prompts;
      prompts.text = in.at(0).to(in.at(1).scalar_type());
      const SamMasks masks =
          decoder_(in.at(1).index_select(0, rows), prompts_.image_pe(), prompts_(prompts), false, {});
      return nn::Tensors{masks.low_res, masks.iou, prompts_.image_pe()};
    });
    result.outputs["image_pe"] = out.at(2).detach();
    finish_text(result, out, texts, targets, resized, original);
    return result;
  }

  void finish_text(Result& result, const nn::Tensors& out, const std::vector<at::Tensor>& texts,
                   const std::vector<at::Tensor>& targets, const std::vector<ImageSize>& resized,
                   const std::vector<ImageSize>& original) const {
    at::Tensor bce = at::zeros({});
    at::Tensor dice = at::zeros({});
    bool scored = !targets.empty();
    std::int64_t first = 0;
    for (std::size_t i = 0; i < texts.size(); ++i) {
      const std::int64_t count = texts[i].size(0);
      const at::Tensor low_res = out.at(0).narrow(0, first, count);
      const at::Tensor full = postprocess_masks(low_res, config_.image_size, resized[i], original[i]);
      const std::string tail = "." + std::to_string(i);
      result.outputs["low_res_masks" + tail] = low_res.detach();
      result.outputs["iou_predictions" + tail] = out.at(1).narrow(0, first, count).detach();
      result.outputs["pred_masks" + tail] = full.detach();
      scored = scored && targets[i].defined();
      if (scored) {
        bce = bce.to(full.device()).add(mask_bce_sum(full, targets[i].to(at::kFloat)));
        dice = dice.to(full.device()).add(mask_dice_sum(full, targets[i].to(at::kFloat)));
      }
      first += count;
    }
    if (!scored) return;
    const LossWeights weights;
    const double count = static_cast<double>(std::max<std::int64_t>(first, 1));
    bce = bce.mul(weights.bce / count);
    dice = dice.mul(weights.dice / count);
    result.objective = bce.add(dice);
    result.outputs["mask_bce_loss"] = bce.detach();
    result.outputs["mask_dice_loss"] = dice.detach();
    result.outputs["mask_loss"] = result.objective.detach();
  }

  /// The sets `points`, `boxes`, `points_boxes`, each with one and with several masks; `input_masks` by itself.
  Result run_user(const UserPrompts& prompts, const at::Tensor& pixels, nn::UnitRunner& runner) const {
    if (prompts.points.defined() != prompts.labels.defined())
      throw RequestError("inputs: input_points and input_labels go together");
    Result result;
    const at::Tensor embeddings = encode(pixels, runner, result.outputs);
    std::vector<std::string> names;
    const nn::Tensors out = runner.run(unit_, {embeddings}, [this, prompts, &names](const nn::Tensors& in) {
      nn::Tensors results;
      names.clear();
      const auto put = [&](const std::string& name, const at::Tensor& value) {
        names.push_back(name);
        results.push_back(value);
      };
      put("image_pe", prompts_.image_pe());
      if (prompts.masks.defined()) {
        SamPrompts only;
        only.masks = prompts.masks;
        put("dense_embeddings.mask", prompts_(only).dense);
      }
      if (prompts.points.defined()) decode_set("points", {prompts.points, prompts.labels, {}, {}}, in.at(0), put);
      if (prompts.boxes.defined()) decode_set("boxes", {{}, {}, prompts.boxes, {}}, in.at(0), put);
      if (prompts.points.defined() && prompts.boxes.defined()) {
        decode_set("points_boxes", {prompts.points, prompts.labels, prompts.boxes, {}}, in.at(0), put);
      }
      return results;
    });
    for (std::size_t i = 0; i < names.size(); ++i) result.outputs[names[i]] = out.at(i).detach();
    return result;
  }

  template <class Put>
  void decode_set(const std::string& name, const UserPrompts& set, const at::Tensor& embeddings, const Put& put) const {
    const at::Tensor& any = set.points.defined() ? set.points : set.boxes;
    const std::int64_t images = any.size(0);
    const std::int64_t each = any.size(1);
    if (images != embeddings.size(0))
      throw RequestError("inputs: prompts for {} images, {} pictures", images, embeddings.size(0));
    SamPrompts flat;
    if (set.points.defined()) {
      flat.points = set.points.flatten(0, 1);
      flat.labels = set.labels.flatten(0, 1).to(at::kLong);
    }
    if (set.boxes.defined()) flat.boxes = set.boxes.flatten(0, 1);
    const SamPromptEmbeddings encoded = prompts_(flat);
    const auto unflatten = [&](const at::Tensor& x) { return x.unflatten(0, {images, each}); };
    put("sparse_embeddings." + name, unflatten(encoded.sparse));
    const at::Tensor rows = embeddings.repeat_interleave(each, 0);
    for (const bool many : {true, false}) {
      const SamMasks masks = decoder_(rows, prompts_.image_pe(), encoded, many, {});
      const std::string tail = "." + name + (many ? ".multi" : ".single");
      put("low_res_masks" + tail, unflatten(masks.low_res));
      put("iou_predictions" + tail, unflatten(masks.iou));
    }
  }

  static ImageSize read_size(Inputs& inputs, const std::string& name) {
    const auto size = inputs.take_integers(name);
    if (size.size() != 2 || size[0] < 1 || size[1] < 1)
      throw RequestError("inputs: '{}' must be two positive integers", name);
    return {size[0], size[1]};
  }

  static void check_target(const at::Tensor& target, std::int64_t count, ImageSize size, std::int64_t image) {
    if (!target.defined()) return;
    if (target.size(0) != count || target.size(1) != size.height || target.size(2) != size.width) {
      throw RequestError("inputs: gt_masks.{} must be [{},{},{}]", image, count, size.height, size.width);
    }
  }

  SamConfig config_;
  SamImageEncoder encoder_;
  nn::UnitId unit_;
  SamPromptEncoder prompts_;
  SamMaskDecoder decoder_;
};

}  // namespace

std::unique_ptr<ForwardModel> open_sam(const ForwardRequest& request, const nlohmann::json& config) {
  return std::make_unique<SamForward>(request, config);
}

}  // namespace tessera::models
