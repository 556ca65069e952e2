#pragma once
/// gIoU and cIoU of binary masks, from exact 64-bit pixel counts.
/// Source: LISA train_ds.py (validate), utils/utils.py (intersectionAndUnionGPU): prediction = logit > 0; target pixels
/// of value 255 are left out; a mask whose union is empty counts as IoU 1; gIoU = sum of IoU / (masks + 1e-5), cIoU =
/// intersections / (unions + 1e-10). The reference adds its counts in fp32 and loses digits on large sets.
#include <cstdint>
#include <span>

#include "tessera/comm/communicator.hpp"

namespace tessera::train {

class IouSum {
 public:
  /// One mask: logits and target of the same length; target 0, 1 or 255 (ignored).
  void add(std::span<const float> logits, std::span<const float> target);
  /// Already counted pixels of one mask.
  void add_counts(std::int64_t intersection, std::int64_t union_pixels);

  double giou() const noexcept;
  double ciou() const noexcept;
  std::int64_t masks() const noexcept { return masks_; }

  /// Sum over all ranks. Collective. IoU values travel as fp64, pixels as 64-bit integers.
  void all_reduce(comm::Communicator& comm);

 private:
  std::int64_t intersection_ = 0;
  std::int64_t union_ = 0;
  std::int64_t masks_ = 0;
  double iou_ = 0;
};

}  // namespace tessera::train
