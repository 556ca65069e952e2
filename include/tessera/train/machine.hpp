#pragma once
/// The machine under a run: memory that a rank may take, and how fast it multiplies, reads memory and talks. Measured
/// in a fraction of a second; the same figures on every rank (the slowest's, the smallest).
#include <c10/core/Device.h>

#include <cstdint>
#include <optional>

#include "tessera/comm/fabric.hpp"
#include "tessera/shard/config.hpp"
#include "tessera/shard/planner.hpp"

namespace tessera::train {

/// Bytes of physical memory in use by this process; on a GPU, of its memory in use by LibTorch.
std::int64_t memory_in_use(c10::Device device);
/// Most of it since the process began.
std::int64_t peak_memory_in_use(c10::Device device);

/// Short products, a pass over memory and, with several ranks, an all_gather. Collective.
shard::MachineRates measure_rates(const comm::Fabric& fabric, c10::Device device, shard::ComputeType compute);

struct MemoryLimits {
  std::int64_t baseline = 0;  ///< in use before the model is made
  std::int64_t budget = 0;    ///< for all of it; what is free is shared among the ranks of a host, less a tenth
};
/// Absent where nothing says what is free. Collective.
std::optional<MemoryLimits> measure_memory(const comm::Fabric& fabric, c10::Device device);

}  // namespace tessera::train
