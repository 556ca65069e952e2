#pragma once
// What lies beside the master and the gradient of a trained slice: the optimiser's states and the average, how large
// they are, and where the states of one piece are. Pure but for allocate_states.
#include <cstdint>
#include <vector>

#include "tessera/shard/config.hpp"
#include "tessera/shard/engine.hpp"
#include "tessera/shard/group_layout.hpp"

namespace tessera::shard {

// Bytes of one rank, the same for every rank.
std::int64_t moment_bytes(const GroupLayout& layout, const EngineConfig& config);
std::int64_t average_bytes(const GroupLayout& layout, const EngineConfig& config);
inline std::int64_t state_bytes(const GroupLayout& layout, const EngineConfig& config) {
  return moment_bytes(layout, config) + average_bytes(layout, config);
}

// Zeros, where the master is.
void allocate_states(TrainedSlice& slice, const EngineConfig& config);

// One state of a piece: its values, and which of the tensor's they are. Codes and values count elements, scales blocks.
struct StatePart {
  const char* name;
  std::int64_t begin = 0, count = 0;
  at::Tensor data;
};
std::vector<StatePart> states_of(const TrainedSlice& slice, std::size_t piece);

}  // namespace tessera::shard
