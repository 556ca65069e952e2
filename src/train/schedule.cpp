#include "tessera/train/schedule.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>
#include <string_view>

#include "tessera/core/error.hpp"

namespace tessera::train {

namespace {

double ratio(std::int64_t part, std::int64_t whole) {
  return static_cast<double>(part) / static_cast<double>(std::max<std::int64_t>(1, whole));
}

bool is_deepspeeds(std::string_view kind) {
  constexpr std::array kKinds = std::to_array<std::string_view>(
      {"warmup", "warmup_log", "warmup_decay", "warmup_decay_log", "warmup_cosine", "warmup_cosine_log"});
  return std::find(kKinds.begin(), kKinds.end(), kind) != kKinds.end();
}

// Behind DeepSpeed's warm-up, by iteration.
double warmup_tail(const ScheduleConfig& c, std::string_view kind, std::int64_t it, std::int64_t warmup) {
  if (kind == "warmup") return 1.0;
  if (kind == "warmup_decay") return std::max(0.0, ratio(c.total_steps - it, c.total_steps - warmup));
  const double progress = std::min(1.0, ratio(it - warmup + 1, c.total_steps - warmup));
  return std::max(0.0, c.end + (1.0 - c.end) * (1.0 + std::cos(std::numbers::pi * progress)) / 2.0);
}

// DeepSpeed counts completed steps minus one, so the first two steps share the rate of iteration 0.
double deepspeed_warmup(const ScheduleConfig& c, std::string_view kind, std::int64_t step) {
  if (step == 1 && c.first_step_full) return 1.0;
  const bool log = kind.ends_with("_log");
  if (log) kind.remove_suffix(4);
  const std::int64_t it = std::max<std::int64_t>(0, step - 2);
  const std::int64_t warmup = c.warmup_steps == 1 ? 2 : c.warmup_steps;  // DeepSpeed's is two steps at least
  if (it >= warmup) return warmup_tail(c, kind, it, warmup);
  return log ? std::log(static_cast<double>(it + 1)) / std::log(static_cast<double>(warmup)) : ratio(it, warmup);
}

// transformers' schedules behind their warm-up, whose first step runs at factor 0.
double polynomial(const ScheduleConfig& c, double progress) {
  return (1.0 - c.end) * std::pow(1.0 - progress, c.power) + c.end;
}

double inverse_sqrt(const ScheduleConfig& c, std::int64_t it) {
  const std::int64_t scale = c.warmup_steps > 0 ? c.warmup_steps : 10'000;
  return 1.0 / std::sqrt(ratio(it + scale - c.warmup_steps, scale));
}

}  // namespace

double learning_rate_factor(const ScheduleConfig& c, std::int64_t step) {
  if (is_deepspeeds(c.kind)) return deepspeed_warmup(c, c.kind, step);
  if (c.kind == "constant") return 1.0;
  const std::int64_t it = step - 1;
  const double progress = std::min(1.0, ratio(it - c.warmup_steps, c.total_steps - c.warmup_steps));
  const bool warm = it >= c.warmup_steps;
  const double start = ratio(it, c.warmup_steps);
  if (c.kind == "linear") return warm ? 1.0 - progress : start;
  if (c.kind == "cosine") return warm ? std::max(0.0, 0.5 * (1.0 + std::cos(std::numbers::pi * progress))) : start;
  if (c.kind == "polynomial") return warm ? polynomial(c, progress) : start;
  if (c.kind == "inverse_sqrt") return warm ? inverse_sqrt(c, it) : start;
  if (c.kind == "constant_with_warmup") return warm ? 1.0 : start;
  throw RequestError("--lr_scheduler_type '{}' is unknown", c.kind);
}

}  // namespace tessera::train
