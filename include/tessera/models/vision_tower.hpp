#pragma once
/// VisionTower: what LLaVA and LISA take pictures through, whatever network it is.
///
/// Shapes: N images of S x S, P tokens an image, C channels.
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "tessera/models/clip.hpp"
#include "tessera/models/fastvit.hpp"
#include "tessera/nn/context.hpp"
#include "tessera/nn/runner.hpp"

namespace tessera::models {

struct VisionTowerConfig {
  ClipVisionConfig clip;
  std::optional<FastVitConfig> fastvit;  ///< instead of CLIP; what is selected below is CLIP's
  /// Which of CLIP's hidden states are taken; several are concatenated over channels (transformers' LLaVA).
  std::vector<std::int64_t> select_layers = {-2};
  bool class_token = false;  ///< keep it in front of the patches (`cls_patch`, `full`)

  std::int64_t image_size() const { return fastvit ? fastvit->image_size : clip.image_size; }
  /// Of an image of image_size.
  std::int64_t tokens() const { return fastvit ? fastvit->tokens() : clip.patches() + (class_token ? 1 : 0); }
  /// Of an image of this size. Throws RequestError when the tower does not take it: CLIP takes one size, FastViT any.
  std::int64_t tokens(std::int64_t height, std::int64_t width) const;
  /// Throws RequestError when a config.json has an mm_hidden_size that is not `width`.
  void require_width(const nlohmann::json& json) const;
  std::int64_t width() const {
    return fastvit ? fastvit->width() : clip.hidden_size * static_cast<std::int64_t>(select_layers.size());
  }
};

class VisionTower {
 public:
  virtual ~VisionTower() = default;
  /// pixels f32 [N,3,S,S] (FastViT's need not be square) to [N,P,C]; N may be 0. Collective when the runner is.
  virtual at::Tensor features(const at::Tensor& pixels, nn::UnitRunner& runner,
                              const nn::ForwardContext& ctx) const = 0;
};

/// Adds the tower's units under `prefix` (its own names follow, "vision_model.…" for CLIP, "model.…" for FastViT).
std::unique_ptr<VisionTower> make_vision_tower(nn::ModelLayout& layout, const VisionTowerConfig& config,
                                               const std::string& prefix);

}  // namespace tessera::models
