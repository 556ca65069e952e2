#include "tessera/train/loss_scale.hpp"

#include <gtest/gtest.h>

namespace tessera::train {
namespace {

TEST(LossScaler, HalvesOnOverflowAndDoublesAfterManySoundSteps) {
  LossScaler scaler(true);
  EXPECT_EQ(scaler.scale(), 65536);
  scaler.update(false);
  scaler.update(false);
  EXPECT_EQ(scaler.scale(), 16384);
  for (std::int64_t i = 1; i < LossScaler::kGrowthInterval; ++i) scaler.update(true);
  EXPECT_EQ(scaler.scale(), 16384);
  scaler.update(true);
  EXPECT_EQ(scaler.scale(), 32768);
  EXPECT_EQ(scaler.sound_steps(), 0);
}

TEST(LossScaler, NeverFallsBelowOne) {
  LossScaler scaler(true);
  for (int i = 0; i < 40; ++i) scaler.update(false);
  EXPECT_EQ(scaler.scale(), 1);
}

TEST(LossScaler, GoesOnWhereACheckpointLeftIt) {
  LossScaler scaler(true);
  scaler.restore(1024, LossScaler::kGrowthInterval - 1);
  scaler.update(true);
  EXPECT_EQ(scaler.scale(), 2048);
}

TEST(LossScaler, WithoutScalingNothingChanges) {
  LossScaler scaler(false);
  scaler.update(false);
  scaler.restore(8, 3);
  EXPECT_EQ(scaler.scale(), 1);
}

}  // namespace
}  // namespace tessera::train
