#pragma once
/// The flags of TrainConfig by concern: bind_* declares a group, check_* holds its settings against each other and
/// throws RequestError naming the flag.
#include "tessera/train/config.hpp"

namespace tessera::train {

void bind_model_flags(Options& options, TrainConfig& config);
void bind_optim_flags(Options& options, TrainConfig& config);
void bind_run_flags(Options& options, TrainConfig& config);
/// Other names of the flags above, and flags of the references that cannot apply; last.
void bind_reference_flags(Options& options, TrainConfig& config);

void check_model_flags(const TrainConfig& config);
void check_optim_flags(const TrainConfig& config);

}  // namespace tessera::train
