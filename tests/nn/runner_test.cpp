#include "tessera/nn/runner.hpp"

#include <ATen/ops/ones.h>

#include "nn/support.hpp"

namespace tessera::nn {
namespace {

TEST(LocalRunner, CallsTheUnitOnce) {
  LocalRunner runner;
  int calls = 0;
  const Tensors out = runner.run(0, {at::ones({2})}, [&](const Tensors& in) {
    ++calls;
    return Tensors{in.at(0).add(1.0), in.at(0)};
  });
  EXPECT_EQ(calls, 1);
  ASSERT_EQ(out.size(), 2U);
  EXPECT_EQ(out[0].sum().item<double>(), 4.0);
}

TEST(Materialize, BindsEveryWeightAndMarksTheTrainedOnes) {
  ModelLayout layout;
  const UnitId unit = layout.add_unit("u");
  const Param trained = layout.add(unit, "a", {2, 3}, Init::ones());
  const Param frozen = layout.add(unit, "b", {4}, Init::zeros());
  const Param buffer = layout.add(unit, "c", {1}, Init::zeros(), true);
  trained->trainable = true;
  materialize(layout, 1);
  EXPECT_TRUE(trained->value().requires_grad());
  EXPECT_FALSE(frozen->value().requires_grad());
  EXPECT_TRUE(buffer->bound());
  EXPECT_EQ(trained->value().sum().item<double>(), 6.0);
}

}  // namespace
}  // namespace tessera::nn
