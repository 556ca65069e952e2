#pragma once
/// VisionTower: what LLaVA and LISA take pictures through, whatever network it is.
///
/// Shapes: N images of S x S, P tokens an image, C channels.
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "tessera/models/clip.hpp"
#include "tessera/nn/context.hpp"
#include "tessera/nn/runner.hpp"

namespace tessera::models {

struct VisionTowerConfig {
  ClipVisionConfig clip;
  /// Which of CLIP's hidden states are taken; several are concatenated over channels (transformers' LLaVA).
  std::vector<std::int64_t> select_layers = {-2};
  bool class_token = false;  ///< keep it in front of the patches (`cls_patch`, `full`)

  std::int64_t tokens() const { return clip.patches() + (class_token ? 1 : 0); }
  std::int64_t width() const { return clip.hidden_size * static_cast<std::int64_t>(select_layers.size()); }
};

class VisionTower {
 public:
  virtual ~VisionTower() = default;
  /// pixels f32 [N,3,S,S] to [N,P,C]; N may be 0. Collective when the runner is.
  virtual at::Tensor features(const at::Tensor& pixels, nn::UnitRunner& runner,
                              const nn::ForwardContext& ctx) const = 0;
};

/// Adds the tower's units under `prefix` (its own names follow, "vision_model.…" for CLIP).
std::unique_ptr<VisionTower> make_vision_tower(nn::ModelLayout& layout, const VisionTowerConfig& config,
                                               const std::string& prefix);

}  // namespace tessera::models
