#pragma once
/// Learning-rate schedules: the factor on a group's peak rate, as a pure function of the step.
/// Source: DeepSpeed runtime/lr_schedules.py (WarmupDecayLR), transformers optimization.py (cosine, linear, constant).
#include <cstdint>
#include <string>

namespace tessera::train {

struct ScheduleConfig {
  std::string kind = "warmup_decay";  ///< warmup_decay (DeepSpeed's), linear, cosine, constant
  std::int64_t warmup_steps = 100;
  std::int64_t total_steps = 5000;
  /// warmup_decay: step 1 runs at the full rate, as DeepSpeed up to 0.15.2 did; otherwise at zero, as newer ones do.
  bool first_step_full = false;
};

/// Factor for optimiser step `step`, counted from 1. Throws RequestError for an unknown kind.
double learning_rate_factor(const ScheduleConfig& config, std::int64_t step);

}  // namespace tessera::train
