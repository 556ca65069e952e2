#include "tessera/train/best_metric.hpp"

#include <fmt/format.h>

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

namespace tessera::train {

bool BestMetric::better(double value) const noexcept {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  return config_.greater_is_better ? value > best_.value_or(-kInfinity) : value < best_.value_or(kInfinity);
}

bool BestMetric::add(double value) {
  const bool best = better(value);
  const bool renews = !seen_ || (best && (!best_ || std::abs(value - *best_) > config_.threshold));
  waited_ = renews ? 0 : waited_ + 1;
  seen_ = true;
  if (best) best_ = value;
  return best;
}

std::string BestMetric::why() const {
  return fmt::format("{} has not become better than {:.4f} by more than {} in {} validations", config_.metric,
                     best_.value_or(0), config_.threshold, waited_);
}

nlohmann::json BestMetric::state() const {
  nlohmann::json out{{"metric", config_.metric}, {"seen", seen_}, {"waited", waited_}};
  if (best_) out["best"] = *best_;
  return out;
}

bool BestMetric::restore(const nlohmann::json& state) {
  if (state.at("metric").get<std::string>() != config_.metric) return false;
  seen_ = state.at("seen").get<bool>();
  waited_ = state.at("waited").get<std::int64_t>();
  best_.reset();
  if (state.contains("best")) best_ = state.at("best").get<double>();
  return true;
}

}  // namespace tessera::train
