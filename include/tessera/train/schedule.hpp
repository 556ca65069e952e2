#pragma once
/// Learning-rate schedules: the factor on a group's peak rate, as a pure function of the step.
/// Source: DeepSpeed runtime/lr_schedules.py (WarmupLR, …), transformers optimization.py
/// (linear, cosine, polynomial, inverse_sqrt, constant, constant_with_warmup).
#include <cstdint>
#include <string>

namespace tessera::train {

struct ScheduleConfig {
  /// DeepSpeed's: warmup, warmup_decay, warmup_cosine, each also with _log behind; the others are transformers'.
  std::string kind = "warmup_decay";
  std::int64_t warmup_steps = 100;
  std::int64_t total_steps = 5000;
  /// DeepSpeed's: step 1 runs at the full rate, as DeepSpeed up to 0.15.2 did; otherwise at zero, as newer ones do.
  bool first_step_full = false;
  double power = 1;  ///< of polynomial
  double end = 0;    ///< of polynomial and warmup_cosine: the last factor
};

/// Factor for optimiser step `step`, counted from 1. Throws RequestError for an unknown kind.
double learning_rate_factor(const ScheduleConfig& config, std::int64_t step);

}  // namespace tessera::train
