#pragma once
// Whether a run may go on from a checkpoint: its samples must be those that the run would have had.
#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>

namespace tessera::train {

struct SampleStream {
  std::int64_t images_per_step = 0;
  std::uint64_t seed = 0, data_seed = 0;
};

// Throws RequestError naming the checkpoint and the flag.
void check_same_stream(const std::filesystem::path& checkpoint, const nlohmann::json& trainer_state,
                       const SampleStream& own);

}  // namespace tessera::train
