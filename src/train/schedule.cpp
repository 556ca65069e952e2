#include "tessera/train/schedule.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "tessera/core/error.hpp"

namespace tessera::train {

namespace {

double ratio(std::int64_t part, std::int64_t whole) {
  return static_cast<double>(part) / static_cast<double>(std::max<std::int64_t>(1, whole));
}

// DeepSpeed counts completed steps minus one, so the first two steps share the rate of iteration 0.
double warmup_decay(const ScheduleConfig& c, std::int64_t step) {
  if (step == 1 && c.first_step_full) return 1.0;
  const std::int64_t it = std::max<std::int64_t>(0, step - 2);
  if (it < c.warmup_steps) return ratio(it, c.warmup_steps);
  return std::max(0.0, ratio(c.total_steps - it, c.total_steps - c.warmup_steps));
}

// transformers' schedules: the first step runs at factor 0 of the warm-up.
double after_warmup(const ScheduleConfig& c, std::int64_t it, bool cosine) {
  if (it < c.warmup_steps) return ratio(it, c.warmup_steps);
  const double progress = std::min(1.0, ratio(it - c.warmup_steps, c.total_steps - c.warmup_steps));
  return cosine ? std::max(0.0, 0.5 * (1.0 + std::cos(std::numbers::pi * progress))) : 1.0 - progress;
}

}  // namespace

double learning_rate_factor(const ScheduleConfig& config, std::int64_t step) {
  const std::int64_t it = step - 1;
  if (config.kind == "warmup_decay") return warmup_decay(config, step);
  if (config.kind == "linear") return after_warmup(config, it, false);
  if (config.kind == "cosine") return after_warmup(config, it, true);
  if (config.kind == "constant") return it < config.warmup_steps ? ratio(it, config.warmup_steps) : 1.0;
  throw RequestError("--lr_scheduler_type '{}' is unknown; choose warmup_decay, linear, cosine or constant",
                     config.kind);
}

}  // namespace tessera::train
