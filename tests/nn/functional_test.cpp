#include "tessera/nn/functional.hpp"

#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/softmax.h>

#include <cmath>

#include "nn/support.hpp"
#include "tessera/core/error.hpp"

namespace tessera::nn {
namespace {

using testing_support::distance;

at::Tensor plain_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& bias) {
  const at::Tensor scores = q.matmul(k.transpose(-2, -1)).div(std::sqrt(static_cast<double>(q.size(3)))).add(bias);
  return at::softmax(scores, -1).matmul(v);
}

TEST(Attention, IsSoftmaxOfBiasedScores) {
  const at::Tensor q = at::randn({2, 3, 5, 7}), k = at::randn({2, 3, 6, 7}), v = at::randn({2, 3, 6, 7});
  const at::Tensor bias = at::randn({2, 1, 5, 6});
  EXPECT_LT(distance(attention(q, k, v, bias, false), plain_attention(q, k, v, bias)), 1e-5);
}

TEST(Attention, KeyHeadsServeTheirGroupOfQueryHeads) {
  const at::Tensor q = at::randn({1, 4, 3, 6}), k = at::randn({1, 2, 3, 6}), v = at::randn({1, 2, 3, 6});
  const at::Tensor whole = plain_attention(q, k.repeat_interleave(2, 1), v.repeat_interleave(2, 1), at::zeros({1}));
  EXPECT_LT(distance(attention(q, k, v, std::nullopt, false), whole), 1e-5);
}

TEST(Attention, OfAnEmptyBatchIsEmptyAndKeepsItsGraph) {
  const at::Tensor q = at::randn({0, 2, 3, 4}).requires_grad_(true);
  const at::Tensor out = attention(q, at::randn({0, 2, 5, 4}), at::randn({0, 2, 5, 4}), std::nullopt, false);
  EXPECT_EQ(out.sizes(), (at::IntArrayRef{0, 2, 3, 4}));
  EXPECT_TRUE(out.requires_grad());
}

TEST(Heads, SplitAndMergeAreInverse) {
  const at::Tensor x = at::randn({2, 5, 12});
  EXPECT_TRUE(merge_heads(split_heads(x, 3)).equal(x));
}

TEST(Rope, ScoresDependOnTheDistanceAlone) {
  RopeConfig config;
  config.dim = 8;
  const RopeTables tables = rope_tables(config, 9, at::kFloat);
  const at::Tensor q = at::randn({1, 1, 1, 8}).expand({1, 1, 9, 8});
  const at::Tensor k = at::randn({1, 1, 1, 8}).expand({1, 1, 9, 8});
  const at::Tensor scores = apply_rope(q, tables).matmul(apply_rope(k, tables).transpose(-2, -1))[0][0];
  EXPECT_NEAR(scores[2][0].item<double>(), scores[8][6].item<double>(), 1e-4);
  EXPECT_NEAR(scores[5][1].item<double>(), scores[6][2].item<double>(), 1e-4);
  EXPECT_TRUE(apply_rope(q, tables)[0][0][0].equal(q[0][0][0]));  // position 0 is not rotated
}

TEST(Rope, LinearScalingStretchesPositions) {
  RopeConfig plain, stretched;
  plain.dim = stretched.dim = 6;
  stretched.scaling = RopeConfig::Scaling::linear;
  stretched.factor = 2.0;
  const at::Tensor a = rope_tables(plain, 4, at::kFloat).cos, b = rope_tables(stretched, 7, at::kFloat).cos;
  EXPECT_LT(distance(b[6], a[3]), 1e-6);
}

TEST(Activation, NamesAreTransformers) {
  const at::Tensor x = at::randn({9});
  EXPECT_LT(distance(activate(activation_from_name("quick_gelu"), x), x.mul(x.mul(1.702).sigmoid())), 1e-6);
  EXPECT_LT(distance(activate(activation_from_name("silu"), x), x.mul(x.sigmoid())), 1e-6);
  EXPECT_THROW(activation_from_name("swoosh"), RequestError);
}

}  // namespace
}  // namespace tessera::nn
