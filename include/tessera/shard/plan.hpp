#pragma once
/// Plan: what a rank will hold and move, from the shapes alone. The engine's own rules, walked without memory: the
/// slices are exact, the pooled peak and the traffic are those of the schedule after its first, recording pass.
/// Units: bytes, per rank.
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "tessera/nn/param.hpp"
#include "tessera/shard/engine.hpp"

namespace tessera::shard {

struct PlanRequest {
  int world = 1;
  int nodes = 1;  ///< of equal size
  EngineConfig engine;
  std::int64_t micro_batches = 1;  ///< per rank and step
  /// Whether backward passes through a unit; absent: through all of them.
  std::function<bool(const nn::Unit&)> has_backward;
};

struct UnitPlan {
  std::string name;
  UnitPolicy policy;
  std::int64_t full_bytes = 0;    ///< gathered weights; 0 when they are always there
  std::int64_t slice_bytes = 0;   ///< frozen slice, or trained master
  std::int64_t frozen_bytes = 0;  ///< of it, frozen
  std::int64_t trained_elements = 0;
  bool backward = false;
  bool fused = false;
};

struct Plan {
  MemoryReport memory;             ///< gathered_peak included
  std::int64_t gathered_sent = 0;  ///< a step, all_gather over all ranks, as the counters count
  std::int64_t node_sent = 0;      ///< a step, all_gather inside a node of several
  std::int64_t reduced_sent = 0;   ///< a step, reduce_scatter
  std::int64_t whole_state = 0;    ///< parameters + gradients + optimiser states of the model on one rank, unpadded
  std::vector<UnitPlan> units;
};

Plan make_plan(const nn::ModelLayout& layout, const PlanRequest& request);

}  // namespace tessera::shard
