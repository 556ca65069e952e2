#include "tessera/nn/param.hpp"

#include <gtest/gtest.h>

#include "tessera/core/error.hpp"

namespace tessera::nn {
namespace {

TEST(ModelLayout, CountsParametersButNotBuffers) {
  ModelLayout layout;
  const UnitId unit = layout.add_unit("u");
  const Scope scope(layout, unit, "m");
  scope.param("w", {3, 4}, Init::zeros())->trainable = true;
  scope.child("c").param("w", {5}, Init::zeros());
  scope.buffer("g", {100}, Init::zeros());
  EXPECT_EQ(layout.total_elements(), 17);
  EXPECT_EQ(layout.trainable_elements(), 12);
  EXPECT_NE(layout.find("m.c.w"), nullptr);
  EXPECT_EQ(layout.find("m.c.v"), nullptr);
}

TEST(ModelLayout, RefusesAnotherWeightOfTheSameName) {
  ModelLayout layout;
  const UnitId unit = layout.add_unit("u");
  layout.add(unit, "w", {1}, Init::zeros());
  EXPECT_THROW(layout.add(unit, "w", {2}, Init::zeros()), RunError);
}

TEST(ModelLayout, RefusesAWeightThatCannotBeCounted) {
  ModelLayout layout;
  const UnitId unit = layout.add_unit("u");
  EXPECT_THROW(layout.add(unit, "w", {1LL << 31, 1LL << 31, 4}, Init::zeros()), RequestError);
  EXPECT_THROW(layout.add(unit, "v", {1LL << 31, 1LL << 31}, Init::zeros()), RequestError);
  EXPECT_TRUE(layout.params().empty());
}

TEST(ModelLayout, ParamsComeInTheOrderOfTheUnits) {
  ModelLayout layout;
  const UnitId first = layout.add_unit("first");
  const UnitId second = layout.add_unit("second");
  layout.add(second, "z", {1}, Init::zeros());
  layout.add(first, "a", {1}, Init::zeros());
  const auto params = layout.params();
  ASSERT_EQ(params.size(), 2U);
  EXPECT_EQ(params[0]->name, "a");
  EXPECT_EQ(params[1]->name, "z");
}

TEST(ParamState, AskedForWhileUnboundNamesItself) {
  ParamState param;
  param.name = "model.w";
  EXPECT_FALSE(param.bound());
  EXPECT_THROW(static_cast<void>(param.value()), RunError);
}

}  // namespace
}  // namespace tessera::nn
