#pragma once
/// BestMetric: which validation of a run was the best, and when to stop for want of a better one. Pure; ranks that add
/// the same values decide the same.
///
/// A value is the best when it is strictly better than the best so far. It renews the patience when it is better by
/// more than the threshold, and the first value always does. A value that is no number is never better. Source:
/// transformers trainer.py (_determine_best_metric), trainer_callback.py (EarlyStoppingCallback).
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

namespace tessera::train {

struct BestMetricConfig {
  std::string metric = "giou";
  bool greater_is_better = true;
  std::int64_t patience = 0;  ///< validations without a better value after which to stop; 0: never
  double threshold = 0;
};

class BestMetric {
 public:
  explicit BestMetric(BestMetricConfig config) : config_(std::move(config)) {}

  /// The value of a validation. True when it is the best so far.
  bool add(double value);
  bool should_stop() const noexcept { return config_.patience > 0 && waited_ >= config_.patience; }
  std::int64_t waited() const noexcept { return waited_; }  ///< validations since one that renewed the patience
  std::string why() const;                                  ///< that it should stop, in words
  std::optional<double> best() const noexcept { return best_; }
  const BestMetricConfig& config() const noexcept { return config_; }

  nlohmann::json state() const;
  /// Takes up a state of the same metric. False, and nothing taken, when it is of another.
  bool restore(const nlohmann::json& state);

 private:
  bool better(double value) const noexcept;
  BestMetricConfig config_;
  std::optional<double> best_;
  bool seen_ = false;  // a value, be it no number
  std::int64_t waited_ = 0;
};

}  // namespace tessera::train
