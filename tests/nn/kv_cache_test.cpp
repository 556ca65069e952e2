#include "tessera/nn/kv_cache.hpp"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include "nn/support.hpp"
#include "tessera/core/error.hpp"

namespace tessera::nn {
namespace {

TEST(KeyValueCache, HoldsWhatWasAddedHoweverManyPositions) {
  const at::AutoGradMode off(false);
  KeyValueCache cache(2);
  std::vector<at::Tensor> keys, values;
  KeyValueCache::Entry held;
  for (const std::int64_t length : {3, 70, 1, 200}) {
    keys.push_back(at::randn({2, 3, length, 4}));
    values.push_back(at::randn({2, 3, length, 4}));
    held = cache.append(0, keys.back(), values.back());
  }
  EXPECT_TRUE(held.keys.equal(at::cat(keys, 2)));
  EXPECT_TRUE(held.values.equal(at::cat(values, 2)));
  EXPECT_EQ(cache.length(), 274);
  EXPECT_EQ(cache.append(1, keys[0], values[0]).keys.size(2), 3) << "layers are apart";
}

TEST(KeyValueCache, ForgetsTheEndAndChoosesRows) {
  const at::AutoGradMode off(false);
  KeyValueCache cache(1);
  const at::Tensor first = at::randn({3, 1, 5, 2}), second = at::randn({2, 1, 1, 2});
  cache.append(0, first, first);
  cache.truncate(4);
  cache.select_rows(at::tensor({2, 0}, at::kLong));
  const auto held = cache.append(0, second, second);
  EXPECT_TRUE(held.keys.narrow(2, 0, 4).equal(first.index_select(0, at::tensor({2, 0}, at::kLong)).narrow(2, 0, 4)));
  EXPECT_TRUE(held.keys.narrow(2, 4, 1).equal(second));
}

TEST(KeyValueCache, RefusesOtherRowsAndRecordedGradients) {
  KeyValueCache cache(1);
  const at::Tensor x = at::randn({2, 1, 1, 2});
  EXPECT_THROW(cache.append(0, x, x), RunError);
  const at::AutoGradMode off(false);
  cache.append(0, x, x);
  const at::Tensor other = at::randn({3, 1, 1, 2});
  EXPECT_THROW(cache.append(0, other, other), RunError);
}

}  // namespace
}  // namespace tessera::nn
