#include "tessera/nn/prefix.hpp"

#include <ATen/core/Tensor.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include "nn/support.hpp"

namespace tessera::nn {
namespace {

class Fixed final : public AttentionPrefix {
 public:
  std::int64_t length() const override { return 2; }
  std::pair<at::Tensor, at::Tensor> keys_and_values() const override { return {keys, values}; }
  at::Tensor keys = at::randn({3, 2, 5}), values = at::randn({3, 2, 5});
};

TEST(Prefix, StandsBeforeTheKeysAndValuesOfEveryRow) {
  ModelLayout layout;
  const Scope scope(layout, layout.add_unit("layers.0"), "layers.0");
  const auto layer = note_attention(scope, "self_attn", 3, 5);
  ASSERT_EQ(layout.attentions().size(), 1U);
  EXPECT_EQ(layer->name, "layers.0.self_attn");
  const at::Tensor k = at::randn({4, 3, 6, 5}), v = at::randn({4, 3, 6, 5});
  EXPECT_TRUE(with_prefix(*layer, k, v).first.is_same(k));
  EXPECT_EQ(layer->prefix_length(), 0);
  const auto fixed = std::make_shared<Fixed>();
  layer->prefix = fixed;
  EXPECT_EQ(layer->prefix_length(), 2);
  const auto [keys, values] = with_prefix(*layer, k, v);
  ASSERT_EQ(keys.sizes(), (at::IntArrayRef{4, 3, 8, 5}));
  for (int row = 0; row < 4; ++row) {
    EXPECT_TRUE(keys[row].narrow(1, 0, 2).equal(fixed->keys));
    EXPECT_TRUE(values[row].narrow(1, 0, 2).equal(fixed->values));
  }
  EXPECT_TRUE(keys.narrow(2, 2, 6).equal(k));
  EXPECT_TRUE(values.narrow(2, 2, 6).equal(v));
}

TEST(Prefix, ItsPositionsAreNeverPadding) {
  const at::Tensor mask = at::zeros({2, 3}, at::kBool);
  EXPECT_TRUE(mask_with_prefix(mask, 0).is_same(mask));
  const at::Tensor longer = mask_with_prefix(mask, 2);
  EXPECT_EQ(longer.sizes(), (at::IntArrayRef{2, 5}));
  EXPECT_TRUE(longer.narrow(1, 0, 2).all().item<bool>());
  EXPECT_TRUE(longer.narrow(1, 2, 3).equal(mask));
}

}  // namespace
}  // namespace tessera::nn
