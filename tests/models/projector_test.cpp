#include "tessera/models/projector.hpp"

#include <ATen/core/Tensor.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>

#include "tessera/core/error.hpp"

namespace tessera::models {
namespace {

TEST(Projector, NamesItsLayersAsLlavaDoes) {
  nn::ModelLayout linear, two, three;
  const Projector a(linear, "model.mm_projector", "linear", 6, 4);
  const Projector b(two, "model.mm_projector", "mlp2x_gelu", 6, 4);
  const Projector c(three, "model.mm_projector", "mlp3x_gelu", 6, 4);
  EXPECT_NE(linear.find("model.mm_projector.weight"), nullptr);
  EXPECT_NE(two.find("model.mm_projector.0.weight"), nullptr);
  EXPECT_NE(two.find("model.mm_projector.2.bias"), nullptr);
  EXPECT_NE(three.find("model.mm_projector.4.weight"), nullptr);
}

TEST(Projector, MapsEveryPatch) {
  nn::ModelLayout layout;
  const Projector projector(layout, "p", "mlp2x_gelu", 6, 4);
  nn::materialize(layout, 1);
  nn::LocalRunner runner;
  EXPECT_EQ(projector.forward(at::randn({2, 9, 6}), runner, {}).sizes(), (at::IntArrayRef{2, 9, 4}));
  EXPECT_EQ(projector.forward(at::randn({0, 9, 6}), runner, {}).sizes(), (at::IntArrayRef{0, 9, 4}));
}

TEST(Projector, IdentityHasNoWeights) {
  nn::ModelLayout layout;
  const Projector projector(layout, "p", "identity", 6, 6);
  nn::LocalRunner runner;
  const at::Tensor x = at::randn({1, 2, 6});
  EXPECT_TRUE(projector.forward(x, runner, {}).is_same(x));
  EXPECT_EQ(layout.total_elements(), 0);
}

TEST(Projector, RefusesAnUnknownType) {
  nn::ModelLayout layout;
  EXPECT_THROW(Projector(layout, "p", "resampler", 6, 4), RequestError);
}

}  // namespace
}  // namespace tessera::models
