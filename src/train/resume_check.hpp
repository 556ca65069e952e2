#pragma once
// Whether a run may go on from a checkpoint: its samples must be those that the run would have had.
#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>

#include "tessera/shard/config.hpp"

namespace tessera::train {

struct SampleStream {
  std::int64_t images_per_step = 0;
  std::uint64_t seed = 0, data_seed = 0;
};

// Throws RequestError naming the checkpoint and the flag.
void check_same_stream(const std::filesystem::path& checkpoint, const nlohmann::json& trainer_state,
                       const SampleStream& own);

// A base in int8 is another model with another threshold of outliers. Throws RequestError naming both; checkpoints of
// bases that are not in int8 have none.
void check_same_threshold(const std::filesystem::path& checkpoint, const nlohmann::json& trainer_state,
                          const shard::Quantization& own);

}  // namespace tessera::train
