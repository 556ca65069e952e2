// LLaMA and CLIP behind `tessera forward`.
#include <ATen/ops/ones_like.h>

#include <nlohmann/json.hpp>

#include "forward_models.hpp"
#include "tessera/core/error.hpp"
#include "tessera/io/model_folder.hpp"
#include "tessera/models/clip.hpp"
#include "tessera/models/llama.hpp"

namespace tessera::models {
namespace {

class LlamaForward final : public ForwardModel {
 public:
  LlamaForward(const ForwardRequest& request, const nlohmann::json& config) : llama_(LlamaConfig::from_json(config)) {
    llama_.add_embedding(layout_);
    llama_.add_decoder(layout_);
    set_weights(io::open_weights(request.model), [](const std::string& name) { return std::optional(name); });
  }

  Result run(const TensorMap& given, nn::UnitRunner& runner) const override {
    Inputs inputs(given);
    const at::Tensor ids = inputs.take("input_ids", 2).to(at::kLong);
    at::Tensor mask = inputs.take_optional("attention_mask", 2);
    at::Tensor labels = inputs.take_optional("labels", 2);
    const at::Tensor cotangent = inputs.take_optional("cotangent", 3);
    inputs.finish();
    if (labels.defined()) labels = labels.to(at::kLong);
    mask = mask.defined() ? mask.to(at::kBool) : at::ones_like(ids, at::kBool);
    for (const at::Tensor& other : {mask, labels}) {
      if (other.defined() && other.sizes() != ids.sizes())
        throw RequestError("inputs: mask and labels must be shaped like input_ids");
    }
    const nn::ForwardContext ctx;
    nn::Tensors hidden;
    const at::Tensor x = llama_.decode(llama_.embed(ids, runner), mask, runner, ctx, &hidden);
    const NextTokenTargets scored = labels.defined() ? next_token_targets(labels) : NextTokenTargets{};
    const nn::Tensors out = runner.run(llama_.head_unit(), {x}, [this, ctx, scored](const nn::Tensors& in) {
      const at::Tensor normed = llama_.final_norm(in.at(0));
      const at::Tensor logits = llama_.head(normed, ctx);
      nn::Tensors results{normed, logits};
      if (scored.positions.defined()) {
        const at::Tensor rows = logits.reshape({-1, logits.size(2)}).index_select(0, scored.positions);
        results.push_back(cross_entropy_sum(rows, scored.targets));
      }
      return results;
    });
    hidden.push_back(out.at(0));
    Result result;
    put_list(result.outputs, "hidden_states", hidden);
    result.outputs["last_hidden_state"] = out.at(0).detach();
    result.outputs["logits"] = out.at(1).detach();
    if (labels.defined()) {
      const auto count = static_cast<double>(std::max<std::int64_t>(scored.targets.numel(), 1));
      result.objective = out.at(2).div(count);
    } else if (cotangent.defined()) {
      if (cotangent.sizes() != out.at(1).sizes())
        throw RequestError("inputs: cotangent must be shaped like the logits");
      result.objective = out.at(1).to(at::kFloat).mul(cotangent).sum();
    }
    if (result.objective.defined()) result.outputs["loss"] = result.objective.detach();
    return result;
  }

 private:
  Llama llama_;
};

class ClipForward final : public ForwardModel {
 public:
  ClipForward(const ForwardRequest& request, const nlohmann::json& config)
      : clip_(layout_, ClipVisionConfig::from_json(config), "vision_model"),
        selected_(ClipVision::layers_for(request.select_layer, clip_.config().layers)) {
    set_weights(io::open_weights(request.model), [](const std::string& name) -> std::optional<std::string> {
      if (name.starts_with("text_") || name.starts_with("visual_projection") || name == "logit_scale")
        return std::nullopt;
      // transformers 5 saves the tower without its own prefix.
      return name.starts_with("vision_model.") ? name : "vision_model." + name;
    });
  }

  Result run(const TensorMap& given, nn::UnitRunner& runner) const override {
    Inputs inputs(given);
    const at::Tensor pixels = inputs.take("pixel_values", 4);
    const at::Tensor cotangent = inputs.take_optional("cotangent", 3);
    inputs.finish();
    nn::Tensors hidden;
    const at::Tensor last = clip_.forward(pixels, runner, {}, &hidden);
    const at::Tensor pooled = clip_.pool(last, runner);
    const at::Tensor& selected = hidden.at(static_cast<std::size_t>(selected_));
    Result result;
    put_list(result.outputs, "hidden_states", hidden);
    result.outputs["last_hidden_state"] = last.detach();
    result.outputs["pooler_output"] = pooled.detach();
    result.outputs["selected.cls_patch"] = selected.detach();
    result.outputs["selected.patch"] = select_feature(selected, SelectFeature::patch).detach();
    if (cotangent.defined()) {
      if (cotangent.sizes() != selected.sizes())
        throw RequestError("inputs: cotangent must be shaped like selected.cls_patch");
      result.objective = selected.to(at::kFloat).mul(cotangent).sum();
      result.outputs["loss"] = result.objective.detach();
    }
    return result;
  }

 private:
  ClipVision clip_;
  std::int64_t selected_;
};

}  // namespace

std::unique_ptr<ForwardModel> open_llama(const ForwardRequest& request, const nlohmann::json& config) {
  return std::make_unique<LlamaForward>(request, config);
}

std::unique_ptr<ForwardModel> open_clip(const ForwardRequest& request, const nlohmann::json& config) {
  return std::make_unique<ClipForward>(request, config);
}

}  // namespace tessera::models
