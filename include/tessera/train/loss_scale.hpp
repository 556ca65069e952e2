#pragma once
/// LossScaler: dynamic loss scaling for fp16, whose gradients otherwise vanish below 6e-8. The loss is multiplied by a
/// power of two before backward and the gradients divided by it; a step whose gradients overflow is skipped and halves
/// the scale, a run of sound steps doubles it. Every rank sees the same steps, so every rank has the same scale.
/// Source: Micikevicius et al., arXiv:1710.03740, section 3.2; defaults of torch.amp.GradScaler.
#include <cstdint>

namespace tessera::train {

class LossScaler {
 public:
  /// Not enabled: the scale is 1 and never changes.
  explicit LossScaler(bool enabled) : enabled_(enabled), scale_(enabled ? 65536.0 : 1.0) {}

  bool enabled() const noexcept { return enabled_; }
  double scale() const noexcept { return scale_; }
  /// After each step: whether its gradients were finite.
  void update(bool finite) noexcept;

  std::int64_t sound_steps() const noexcept { return sound_steps_; }  ///< since the scale last changed
  void restore(double scale, std::int64_t sound_steps) noexcept;      ///< from a checkpoint

  static constexpr std::int64_t kGrowthInterval = 2000;  ///< sound steps before the scale doubles

 private:
  bool enabled_;
  double scale_;
  std::int64_t sound_steps_ = 0;
};

}  // namespace tessera::train
