// CLIP behind `tessera forward`.
#include <nlohmann/json.hpp>

#include "forward_models.hpp"
#include "tessera/core/error.hpp"
#include "tessera/io/model_folder.hpp"
#include "tessera/models/clip.hpp"

namespace tessera::models {
namespace {

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

  Result compute(const TensorMap& given, nn::UnitRunner& runner) const override {
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

std::unique_ptr<ForwardModel> open_clip(const ForwardRequest& request, const nlohmann::json& config) {
  return std::make_unique<ClipForward>(request, config);
}

}  // namespace tessera::models
