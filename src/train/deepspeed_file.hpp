#pragma once
// What a DeepSpeed configuration file says of a training under transformers' trainer, in our settings.
#include <filesystem>
#include <string>
#include <vector>

#include "tessera/core/options.hpp"
#include "tessera/train/config.hpp"

namespace tessera::train {

// Settles clipping, precision, offload and the optimiser's figures; a flag that was given beats what the file leaves
// open. Returns warnings about what is not followed. Throws RequestError naming file and key: malformed, or against a
// flag that was given.
// Source: transformers integrations/deepspeed.py (HfTrainerDeepSpeedConfig); DeepSpeed runtime/constants.py, whose
// gradient_clipping is 0 where the file has none.
std::vector<std::string> apply_deepspeed_file(const std::filesystem::path& path, TrainConfig& config,
                                              const Options& options);

}  // namespace tessera::train
