#include "tessera/models/vision_tower.hpp"

#include <ATen/ops/cat.h>

#include <algorithm>

#include "json_fields.hpp"

namespace tessera::models {
namespace {

class ClipTower final : public VisionTower {
 public:
  ClipTower(nn::ModelLayout& layout, const VisionTowerConfig& config, const std::string& prefix)
      : states_(states_of(config)),
        class_token_(config.class_token),
        clip_(layout, config.clip, prefix + ".vision_model", *std::max_element(states_.begin(), states_.end())) {}

  at::Tensor features(const at::Tensor& pixels, nn::UnitRunner& runner, const nn::ForwardContext& ctx) const override {
    if (states_.size() == 1) return selected(clip_.forward(pixels, runner, ctx));  // the last that runs
    nn::Tensors hidden;
    clip_.forward(pixels, runner, ctx, &hidden);
    std::vector<at::Tensor> taken;
    for (const std::int64_t state : states_) taken.push_back(selected(hidden.at(static_cast<std::size_t>(state))));
    return at::cat(taken, 2);
  }

 private:
  at::Tensor selected(const at::Tensor& hidden) const {
    return class_token_ ? hidden : hidden.narrow(1, 1, hidden.size(1) - 1);
  }
  static std::vector<std::int64_t> states_of(const VisionTowerConfig& config) {
    std::vector<std::int64_t> states;
    for (const std::int64_t layer : config.select_layers) {
      states.push_back(ClipVision::layers_for(layer, config.clip.layers));
    }
    if (states.empty()) throw RequestError("the vision tower's list of selected layers is empty");
    return states;
  }

  std::vector<std::int64_t> states_;
  bool class_token_;
  ClipVision clip_;
};

class FastVitTower final : public VisionTower {
 public:
  FastVitTower(nn::ModelLayout& layout, const FastVitConfig& config, const std::string& prefix)
      : network_(layout, config, prefix + ".model") {}

  at::Tensor features(const at::Tensor& pixels, nn::UnitRunner& runner, const nn::ForwardContext& ctx) const override {
    return FastVit::tokens(network_.forward(pixels, runner, ctx));
  }

 private:
  FastVit network_;
};

}  // namespace

std::int64_t VisionTowerConfig::tokens(std::int64_t height, std::int64_t width) const {
  if (fastvit) return fastvit->map_side(height) * fastvit->map_side(width);
  if (height != clip.image_size || width != clip.image_size)
    throw RequestError("the vision tower takes pictures of {0} x {0} pixels, not {1} x {2}", clip.image_size, height,
                       width);
  return tokens();
}

void VisionTowerConfig::require_width(const nlohmann::json& json) const {
  const JsonFields fields(json, "config.json");
  if (fields.integer("mm_hidden_size", width()) == width()) return;
  throw RequestError("config.json: mm_hidden_size {} is not the vision tower's {}", json.at("mm_hidden_size").dump(),
                     width());
}

std::unique_ptr<VisionTower> make_vision_tower(nn::ModelLayout& layout, const VisionTowerConfig& config,
                                               const std::string& prefix) {
  if (config.fastvit) return std::make_unique<FastVitTower>(layout, *config.fastvit, prefix);
  return std::make_unique<ClipTower>(layout, config, prefix);
}

}  // namespace tessera::models
