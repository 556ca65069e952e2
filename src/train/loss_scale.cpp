#include "tessera/train/loss_scale.hpp"

#include <algorithm>

namespace tessera::train {

void LossScaler::update(bool finite) noexcept {
  if (!enabled_) return;
  if (!finite) {
    scale_ = std::max(1.0, scale_ / 2);
    sound_steps_ = 0;
  } else if (++sound_steps_ == kGrowthInterval) {
    scale_ = std::min(scale_ * 2, 16777216.0);  // fp16 holds 65504: a larger scale could only overflow
    sound_steps_ = 0;
  }
}

void LossScaler::restore(double scale, std::int64_t sound_steps) noexcept {
  if (!enabled_) return;
  scale_ = scale;
  sound_steps_ = sound_steps;
}

}  // namespace tessera::train
