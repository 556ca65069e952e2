// SAM behind `tessera forward`: text prompts with losses, or user prompts.
#include <ATen/ops/cat.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <nlohmann/json.hpp>

#include "forward_sam.hpp"
#include "sam_names.hpp"
#include "tessera/core/error.hpp"
#include "tessera/core/file.hpp"
#include "tessera/io/model_folder.hpp"
#include "tessera/models/lisa.hpp"

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

  Result compute(const TensorMap& given, nn::UnitRunner& runner) const override {
    Inputs inputs(given);
    const at::Tensor pixels = inputs.take("pixel_values", 4);
    if (inputs.has("text_embeds.0")) return run_text(inputs, pixels, runner);
    const SamUserInputs prompts = SamUserInputs::take(inputs, pixels.size(0));
    inputs.finish();
    return run_user(prompts, pixels, runner);
  }

 private:
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
      resized.push_back(read_image_size(inputs, "input_size" + tail));
      original.push_back(read_image_size(inputs, "original_size" + tail));
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
      const at::Tensor full = postprocess_masks(low_res, config_.image_size, resized[i], original[i]).squeeze(1);
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

  /// Points, boxes and masks; without any of them the encoder alone.
  Result run_user(const SamUserInputs& given, const at::Tensor& pixels, nn::UnitRunner& runner) const {
    Result result;
    const at::Tensor embeddings = encode(pixels, runner, result.outputs);
    if (given.points.defined() || given.boxes.defined()) check_grid(embeddings);
    // Shared, not borrowed: backward may run the unit again after this function has returned.
    const auto names = std::make_shared<std::vector<std::string>>();
    const nn::Tensors out = runner.run(unit_, {embeddings}, [this, given, names](const nn::Tensors& in) {
      nn::Tensors values;
      names->clear();
      for (auto& [name, value] : decode_user_prompts(prompts_, decoder_, given, in.at(0))) {
        names->push_back(name);
        values.push_back(value);
      }
      return values;
    });
    NamedTensors found{{"image_embeddings", embeddings}};
    for (std::size_t i = 0; i < names->size(); ++i) found.emplace_back(names->at(i), out.at(i));
    finish_user(result, found, given, config_.image_size);
    return result;
  }

  void check_grid(const at::Tensor& embeddings) const {
    if (embeddings.size(2) == config_.grid() && embeddings.size(3) == config_.grid()) return;
    throw RequestError("SAM's prompts need pictures of {0} x {0}, which is image_size", config_.image_size);
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
