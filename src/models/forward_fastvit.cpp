// FastViTHD behind `tessera forward`.
#include <nlohmann/json.hpp>

#include "forward_models.hpp"
#include "tessera/core/error.hpp"
#include "tessera/io/model_folder.hpp"
#include "tessera/models/fastvit.hpp"

namespace tessera::models {
namespace {

class FastVitForward final : public ForwardModel {
 public:
  FastVitForward(const io::SourcePtr& files, const FastVitConfig& config) : tower_(layout_, config, "model") {
    set_weights(files, [config](const std::string& name) { return fastvit_name(name, config); });
  }

  Result compute(const TensorMap& given, nn::UnitRunner& runner) const override {
    Inputs inputs(given);
    const at::Tensor pixels = inputs.take("pixel_values", 4);
    const at::Tensor cotangent = inputs.take_optional("cotangent", 3);
    inputs.finish();
    const at::Tensor map = tower_.forward(pixels, runner, {});
    const at::Tensor features = tower_.tokens(map);
    Result result;
    result.outputs["feature_map"] = map.detach();
    result.outputs["image_features"] = features.detach();
    if (cotangent.defined()) {
      if (cotangent.sizes() != features.sizes())
        throw RequestError("inputs: cotangent must be shaped like image_features");
      result.objective = features.to(at::kFloat).mul(cotangent).sum();
      result.outputs["loss"] = result.objective.detach();
    }
    return result;
  }

 private:
  FastVit tower_;
};

}  // namespace

std::unique_ptr<ForwardModel> open_fastvit(const ForwardRequest& request, const nlohmann::json& config) {
  const io::SourcePtr files = io::open_weights(request.model);
  FastVitConfig tower = FastVitConfig::from_json(config);
  tower.fit_to_weights(*files);
  return std::make_unique<FastVitForward>(files, tower);
}

}  // namespace tessera::models
