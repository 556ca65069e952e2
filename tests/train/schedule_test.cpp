#include "tessera/train/schedule.hpp"

#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>

#include "support/support.hpp"
#include "tessera/core/error.hpp"

namespace tessera::train {
namespace {

TEST(Schedule, WarmupDecayFollowsDeepSpeed) {
  ScheduleConfig c{"warmup_decay", 100, 5000, false};
  EXPECT_EQ(learning_rate_factor(c, 1), 0.0);  // steps 1 and 2 share iteration 0
  EXPECT_EQ(learning_rate_factor(c, 2), 0.0);
  EXPECT_DOUBLE_EQ(learning_rate_factor(c, 3), 0.01);
  EXPECT_DOUBLE_EQ(learning_rate_factor(c, 101), 0.99);
  EXPECT_DOUBLE_EQ(learning_rate_factor(c, 102), 1.0);
  EXPECT_DOUBLE_EQ(learning_rate_factor(c, 5000), 2.0 / 4900);
  c.first_step_full = true;
  EXPECT_EQ(learning_rate_factor(c, 1), 1.0);
  EXPECT_EQ(learning_rate_factor(c, 2), 0.0);
}

TEST(Schedule, CosineAndLinearFollowTransformers) {
  EXPECT_DOUBLE_EQ(learning_rate_factor({"cosine", 10, 110, false}, 1), 0.0);
  EXPECT_DOUBLE_EQ(learning_rate_factor({"cosine", 10, 110, false}, 6), 0.5);
  EXPECT_DOUBLE_EQ(learning_rate_factor({"cosine", 10, 110, false}, 11), 1.0);
  EXPECT_NEAR(learning_rate_factor({"cosine", 10, 110, false}, 61), 0.5, 1e-12);
  EXPECT_DOUBLE_EQ(learning_rate_factor({"linear", 10, 110, false}, 61), 0.5);
  EXPECT_DOUBLE_EQ(learning_rate_factor({"constant", 10, 110, false}, 61), 1.0);
}

// Every kind, step by step to the one behind the last: tests/golden/train/schedules.py.
TEST(Schedule, EachKindIsThePublicOne) {
  const auto path = std::filesystem::path(TESSERA_SOURCE_DIR) / "tests/golden/train/data/schedules.json";
  const auto golden = nlohmann::json::parse(testing_support::read_file(path));
  std::set<std::string> kinds;
  for (const auto& c : golden.at("cases")) {
    ScheduleConfig config;
    config.kind = c.at("kind").get<std::string>();
    config.warmup_steps = c.at("warmup_steps").get<std::int64_t>();
    config.total_steps = c.at("total_steps").get<std::int64_t>();
    config.power = c.at("power").get<double>();
    config.end = c.at("end").get<double>();
    kinds.insert(config.kind);
    const auto& factors = c.at("factors");
    for (std::size_t i = 0; i < factors.size(); ++i) {
      EXPECT_NEAR(learning_rate_factor(config, static_cast<std::int64_t>(i) + 1), factors[i].get<double>(), 1e-12)
          << config.kind << ", warm-up " << config.warmup_steps << ", step " << i + 1;
    }
  }
  EXPECT_EQ(kinds.size(), 12U);
}

TEST(Schedule, AnUnknownKindIsARequestError) {
  EXPECT_THROW(learning_rate_factor({"cosin", 1, 2, false}, 1), RequestError);
}

}  // namespace
}  // namespace tessera::train
