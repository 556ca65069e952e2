#include "tessera/shard/config.hpp"

#include <gtest/gtest.h>

#include <stdexcept>

namespace tessera::shard {
namespace {

TEST(EngineConfig, OnePolicyServesAllUnitsUnlessEachHasItsOwn) {
  EngineConfig config;
  config.policy.frozen = Placement::resident;
  EXPECT_EQ(config.policy_of(7).frozen, Placement::resident);
  config.units.resize(2);
  config.units[1].recompute = false;
  EXPECT_EQ(config.policy_of(0), UnitPolicy{});
  EXPECT_FALSE(config.policy_of(1).recompute);
  EXPECT_THROW(config.policy_of(2), std::out_of_range);
}

TEST(EngineConfig, DefaultsShardEverythingAndAreReproducible) {
  const EngineConfig config;
  EXPECT_EQ(config.policy_of(0).frozen, Placement::world);
  EXPECT_TRUE(config.policy_of(0).recompute);
  EXPECT_TRUE(config.reproducible);
  EXPECT_EQ(config.layer_major, 1);
}

}  // namespace
}  // namespace tessera::shard
