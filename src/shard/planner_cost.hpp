#pragma once
// What a configuration costs: memory held by activations, and the time of a step.
#include <cstdint>

#include "tessera/shard/planner.hpp"

namespace tessera::shard {

// Most bytes of activations at once, over forward and backward of the micro-batches that run together. `heap`: freed
// memory stays in the process' heap, as on CPUs, where what forward needed for a moment is rarely what backward asks
// for: both are counted, and three tenths for the gaps between blocks (measured: 20 to 45 % on LLaMA, most where
// units are recomputed).
std::int64_t activation_peak(const Plan& plan, const Workload& work, int lanes, bool heap);

MemoryEstimate memory_of(const PlannerRequest& request, const EngineConfig& config, const Plan& plan);

TimeEstimate time_of(const PlannerRequest& request, const EngineConfig& config, const Plan& plan);

}  // namespace tessera::shard
