// Against what transformers decides on the same values: tests/golden/train/early_stopping.py.
#include "tessera/train/best_metric.hpp"

#include <gtest/gtest.h>

#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>

#include "support/support.hpp"

namespace tessera::train {
namespace {

nlohmann::json golden_cases() {
  const auto path = std::filesystem::path(TESSERA_SOURCE_DIR) / "tests/golden/train/data/early_stopping.json";
  return nlohmann::json::parse(testing_support::read_file(path)).at("cases");
}

BestMetricConfig config_of(const nlohmann::json& c) {
  return {"m", c.at("greater").get<bool>(), c.at("patience").get<std::int64_t>(), c.at("threshold").get<double>()};
}

double value_of(const nlohmann::json& v) {
  return v.is_string() ? std::numeric_limits<double>::quiet_NaN() : v.get<double>();
}

// Where transformers has stopped, training is over; here as there a later better value would renew the patience.
TEST(BestMetric, DecidesAsTransformersDoes) {
  for (const auto& c : golden_cases()) {
    BestMetric metric(config_of(c));
    for (std::size_t i = 0; i < c.at("values").size(); ++i) {
      EXPECT_EQ(metric.add(value_of(c["values"][i])), c["best"][i].get<bool>()) << c.dump() << " at " << i;
      EXPECT_EQ(metric.waited(), c["waited"][i].get<std::int64_t>()) << c.dump() << " at " << i;
      EXPECT_EQ(metric.should_stop(), c["stop"][i].get<bool>()) << c.dump() << " at " << i;
      if (metric.should_stop()) break;
    }
  }
}

TEST(BestMetric, AStateThatWasWrittenAndReadDecidesAlike) {
  for (const auto& c : golden_cases()) {
    BestMetric whole(config_of(c)), before(config_of(c)), after(config_of(c));
    const auto& values = c.at("values");
    for (std::size_t i = 0; i < 3; ++i) EXPECT_EQ(whole.add(value_of(values[i])), before.add(value_of(values[i])));
    ASSERT_TRUE(after.restore(nlohmann::json::parse(before.state().dump())));
    for (std::size_t i = 3; i < values.size(); ++i) {
      EXPECT_EQ(whole.add(value_of(values[i])), after.add(value_of(values[i])));
      EXPECT_EQ(whole.waited(), after.waited());
    }
  }
}

TEST(BestMetric, WithoutPatienceItNeverStops) {
  BestMetric metric({"giou", true, 0, 0});
  for (int i = 0; i < 50; ++i) metric.add(0.5);
  EXPECT_FALSE(metric.should_stop());
}

TEST(BestMetric, AStateOfAnotherMetricIsNotTakenUp) {
  BestMetric giou({"giou", true, 2, 0}), ciou({"ciou", true, 2, 0});
  giou.add(0.7);
  EXPECT_FALSE(ciou.restore(giou.state()));
  EXPECT_FALSE(ciou.best().has_value());
}

}  // namespace
}  // namespace tessera::train
