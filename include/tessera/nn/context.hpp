#pragma once
/// ForwardContext: what a forward pass knows beside its tensors. Small, copied into unit functions, so that a unit run
/// again in backward (activation checkpointing) sees the same values.
#include <cstdint>
#include <vector>

namespace tessera::nn {

struct ForwardContext {
  std::uint64_t seed = 0;
  std::int64_t step = 0;                   ///< global optimiser step
  bool training = false;                   ///< dropout acts
  std::vector<std::uint64_t> sample_keys;  ///< one per row of the batch; dropout depends on it, not on rank or position
};

}  // namespace tessera::nn
