#include "tessera/train/iou.hpp"

#include <array>

#include "tessera/core/error.hpp"

namespace tessera::train {

void IouSum::add(std::span<const float> logits, std::span<const float> target) {
  if (logits.size() != target.size()) {
    throw RunError("iou: prediction has {} pixels, target {}", logits.size(), target.size());
  }
  std::int64_t both = 0;
  std::int64_t predicted = 0;
  std::int64_t wanted = 0;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    if (target[i] == 255.0F) continue;
    const bool p = logits[i] > 0.0F;
    const bool t = target[i] == 1.0F;
    both += p && t ? 1 : 0;
    predicted += p ? 1 : 0;
    wanted += t ? 1 : 0;
  }
  add_counts(both, predicted + wanted - both);
}

void IouSum::add_counts(std::int64_t intersection, std::int64_t union_pixels) {
  intersection_ += intersection;
  union_ += union_pixels;
  ++masks_;
  iou_ +=
      static_cast<double>(intersection) / (static_cast<double>(union_pixels) + 1e-5) + (union_pixels == 0 ? 1.0 : 0.0);
}

double IouSum::giou() const noexcept {
  return iou_ / (static_cast<double>(masks_) + 1e-5);
}

double IouSum::ciou() const noexcept {
  return static_cast<double>(intersection_) / (static_cast<double>(union_) + 1e-10);
}

void IouSum::all_reduce(comm::Communicator& comm) {
  std::array<std::int64_t, 3> counts{intersection_, union_, masks_};
  comm.all_reduce({counts.data(), static_cast<std::int64_t>(counts.size()), comm::DType::i64});
  comm.all_reduce({&iou_, 1, comm::DType::f64});
  intersection_ = counts[0];
  union_ = counts[1];
  masks_ = counts[2];
}

}  // namespace tessera::train
