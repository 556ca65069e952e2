// Against bitsandbytes' Linear8bitLt (tests/golden/nn/int8_layer.py), and what no golden shows.
#include "tessera/nn/int8_input.hpp"

#include <ATen/TensorOperators.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/autograd.h>

#include "nn/support.hpp"
#include "tessera/io/tensor_file.hpp"
#include "tessera/nn/layers.hpp"
#include "tessera/nn/runner.hpp"

namespace tessera::nn {
namespace {

using testing_support::distance;

struct Int8Golden : testing::TestWithParam<const char*> {
  static const io::TensorMap& all() {
    static const io::TensorMap tensors =
        io::read_tensors(TESSERA_SOURCE_DIR "/tests/golden/nn/data/int8_layer.safetensors");
    return tensors;
  }
  at::Tensor at(const std::string& what) const { return all().at(std::string(GetParam()) + "." + what); }
  bool has(const std::string& what) const { return all().contains(std::string(GetParam()) + "." + what); }
};

TEST_P(Int8Golden, ALayerHasBitsandbytesOutputAndGradient) {
  ModelLayout layout;
  const Scope scope(layout, layout.add_unit("u"), "m");
  const at::Tensor weight = at("weight"), x = at("x").set_requires_grad(true);
  const Linear linear(scope, "fc", weight.size(1), weight.size(0), has("bias"));
  layout.find("m.fc.weight")->bind(weight);
  if (has("bias")) layout.find("m.fc.bias")->bind(at("bias"));
  layout.layers()[0]->int8_threshold = at("threshold").item<double>();
  const at::Tensor y = linear(x, {});
  const double scale = at("y").abs().max().item<double>();
  EXPECT_LT(distance(y, at("y")), 3e-5 * scale);  // of it 1.8e-5 are a constant of bitsandbytes' CPU path
  torch::autograd::backward({y}, {at("g")});
  EXPECT_LT(distance(x.grad(), at("x_grad")), 1e-5);
}

INSTANTIATE_TEST_SUITE_P(Nn, Int8Golden,
                         testing::Values("outliers", "outliers_and_bias", "at_the_threshold", "no_outliers",
                                         "all_columns", "one_row", "rows_of_zeros", "beyond_fp16", "threshold_zero"),
                         [](const auto& instance) { return std::string(instance.param); });

TEST(Int8Input, OutliersColumnsStayAndTheOthersAreRoundedByRow) {
  // The third column has an outlier in row 1; its 4 in row 0 counts in that row's absmax all the same.
  const at::Tensor x = at::tensor({1.0F, -3.3F, 4.0F, 0.01F, 2.0F, 6.0F}).view({2, 3});
  const at::Tensor y = int8_input(x, 6.0);
  const auto* values = y.const_data_ptr<float>();
  EXPECT_EQ(values[2], 4.0F);
  EXPECT_EQ(values[5], 6.0F);
  EXPECT_FLOAT_EQ(values[0], 32.0F * 4 / 127);    // 31.75
  EXPECT_FLOAT_EQ(values[1], -105.0F * 4 / 127);  // 104.8
  EXPECT_FLOAT_EQ(values[3], 1.0F * 2 / 127);     // 0.6
  EXPECT_FLOAT_EQ(values[4], 2.0F);
}

TEST(Int8Input, WithThresholdZeroEveryColumnIsRounded) {
  const at::Tensor y = int8_input(at::tensor({100.0F, 1.0F}).view({1, 2}), 0.0);
  EXPECT_FLOAT_EQ(y.const_data_ptr<float>()[0], 100.0F);
  EXPECT_FLOAT_EQ(y.const_data_ptr<float>()[1], 100.0F / 127);
}

TEST(Int8Input, KeepsTypeAndShapeAlsoOfNothing) {
  for (const auto type : {at::kFloat, at::kBFloat16, at::kHalf}) {
    const at::Tensor x = at::randn({2, 3, 8}).to(type);
    const at::Tensor y = int8_input(x, 6.0);
    EXPECT_EQ(y.scalar_type(), type);
    EXPECT_EQ(y.sizes(), x.sizes());
    EXPECT_LT(distance(y, x), 0.04);
  }
  EXPECT_EQ(int8_input(at::zeros({0, 8}), 6.0).sizes(), at::IntArrayRef({0, 8}));
}

/// What the layer's input was.
class Seeing final : public LayerAdapter {
 public:
  explicit Seeing(at::Tensor& seen) : seen_(seen) {}
  at::Tensor apply(const at::Tensor& x, const at::Tensor& base, const ForwardContext&) const override {
    seen_ = x;
    return base;
  }

 private:
  at::Tensor& seen_;
};

TEST(Int8Input, AnAdapterSeesTheInputAsItCame) {
  ModelLayout layout;
  const Scope scope(layout, layout.add_unit("u"), "m");
  const Linear linear(scope, "fc", 6, 4, false);
  materialize(layout, 1);
  auto& layer = *layout.layers()[0];
  layer.int8_threshold = 6.0;
  at::Tensor seen;
  layer.adapter = std::make_shared<Seeing>(seen);
  const at::Tensor x = at::randn({3, 6});
  EXPECT_LT(distance(linear(x, {}), at::linear(int8_input(x, 6.0), layer.weight->value())), 1e-6);
  EXPECT_TRUE(at::equal(seen, x));
}

TEST(Int8Input, AHeadsCrossEntropyIsOfTheRoundedInputToo) {
  ModelLayout layout;
  const Scope scope(layout, layout.add_unit("u"), "m");
  const Linear head(scope, "head", 6, 9, false);
  materialize(layout, 1);
  const at::Tensor x = at::randn({5, 6}), targets = at::randint(9, {5}, at::kLong);
  const at::Tensor wanted = head.cross_entropy_sum(int8_input(x, 0.0), targets, {});
  const at::Tensor plain = head.cross_entropy_sum(x, targets, {});
  layout.layers()[0]->int8_threshold = 0.0;
  EXPECT_LT(distance(head.cross_entropy_sum(x, targets, {}), wanted), 1e-6);
  EXPECT_GT(distance(plain, wanted), 1e-6);
}

}  // namespace
}  // namespace tessera::nn
