#include "tessera/train/schedule.hpp"

#include <gtest/gtest.h>

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

TEST(Schedule, AnUnknownKindIsARequestError) {
  EXPECT_THROW(learning_rate_factor({"cosin", 1, 2, false}, 1), RequestError);
}

}  // namespace
}  // namespace tessera::train
