#pragma once
// Schedule: the order of units in one kind of pass, recorded once and then followed, and what follows from it alone:
// which groups are gathered ahead and which stay after use. Pure; the engine acts on it and the plan walks it.
#include <cstddef>
#include <cstdint>
#include <vector>

#include "tessera/nn/param.hpp"

namespace tessera::shard {

// Which groups each unit's call needs, and what each takes while it is gathered (0: it is never gathered for a call).
struct GroupUse {
  std::vector<std::vector<int>> of_unit;
  std::vector<std::int64_t> bytes;
};

class Schedule {
 public:
  Schedule(const GroupUse& use, int prefetch, std::int64_t keep_bytes)
      : use_(&use), prefetch_(prefetch), keep_bytes_(keep_bytes) {}

  bool recorded() const noexcept { return recorded_; }
  void note(nn::UnitId unit) { order_.push_back(unit); }  // while recording
  void close() noexcept { recorded_ = true; }
  const std::vector<nn::UnitId>& order() const noexcept { return order_; }

  // Groups of the next `prefetch` calls from `position` on, in the order of their use.
  std::vector<int> ahead(std::size_t position) const;
  // Of the groups that are gathered and unused before call `position`: those to let go. What the next calls need stays;
  // of the rest the ones used again soonest, counting on that the pass comes again, up to keep_bytes.
  std::vector<int> surplus(std::size_t position, const std::vector<int>& idle) const;

 private:
  std::size_t distance(int group, std::size_t position) const;  // calls until its next use, around the end

  const GroupUse* use_;
  int prefetch_;
  std::int64_t keep_bytes_;
  std::vector<nn::UnitId> order_;
  bool recorded_ = false;
};

}  // namespace tessera::shard
