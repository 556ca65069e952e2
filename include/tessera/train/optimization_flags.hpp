#pragma once
/// OptimizationFlags: what is told of the update beyond a rate and a schedule: rates by name, clipping by value, the
/// average of the weights, smoothed labels and noise, and when to stop.
/// Source: transformers training_args.py and trainer_callback.py (metric_for_best_model, early_stopping_*).
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "tessera/core/options.hpp"
#include "tessera/train/best_metric.hpp"

namespace tessera::train {

struct OptimizationFlags {
  std::vector<std::string> lr_groups;        ///< param_groups.hpp: rate_pattern
  double max_grad_value = 0;                 ///< 0: no clipping by value
  double ema_decay = 0;                      ///< 0: no average
  std::string ema_use = "both";              ///< both, eval, export, none
  std::string metric_for_best_model;         ///< giou, ciou, loss; empty: as the recipe has it
  std::optional<bool> greater_is_better;     ///< absent: as the metric is
  std::int64_t early_stopping_patience = 0;  ///< validations; 0: never stops
  double early_stopping_threshold = 0;
  bool load_best_model_at_end = false;  ///< what is exported is best/
  double label_smoothing_factor = 0;    ///< of recipe llava, like the next
  double neftune_noise_alpha = 0;       ///< 0: no noise

  bool averages_for(std::string_view use) const { return ema_decay > 0 && (ema_use == "both" || ema_use == use); }
};

BestMetricConfig best_metric_of(const OptimizationFlags& flags);

void bind(Options& options, OptimizationFlags& flags);

/// Throws RequestError naming the flag.
void validate(const OptimizationFlags& flags);

}  // namespace tessera::train
