#include "tessera/adapt/base_start.hpp"

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linalg_svd.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <cmath>

#include "nn/support.hpp"
#include "support/limits.hpp"
#include "support/support.hpp"
#include "tessera/core/error.hpp"
#include "tessera/io/model_folder.hpp"
#include "tessera/io/tensor_file.hpp"

namespace tessera::adapt {
namespace {

using testing_support::distance;
using testing_support::message_of;

/// Singular values 2^0, 2^-1, …: what a rank takes is well apart from what is left.
at::Tensor graded(std::int64_t out, std::int64_t in) {
  const auto [u, s, vh] = at::linalg_svd(at::randn({out, in}), false);
  at::Tensor values = s.clone();
  for (std::int64_t i = 0; i < values.numel(); ++i) values[i] = std::pow(2.0, -static_cast<double>(i));
  return at::matmul(u * values, vh);
}

double norm_left(const at::Tensor& weight, const LowRank& part, double scaling) {
  return (weight - at::matmul(part.b, part.a) * scaling).norm().item<double>();
}

TEST(Pissa, TakesTheLargestSingularValues) {
  for (const auto& [out, in] : {std::pair{9, 6}, {5, 11}}) {
    const at::Tensor weight = graded(out, in);
    const LowRank part = pissa(weight, 3, 0.5, -1, 1);
    EXPECT_EQ(part.a.sizes(), (at::IntArrayRef{3, in}));
    EXPECT_EQ(part.b.sizes(), (at::IntArrayRef{out, 3}));
    EXPECT_LT(norm_left(weight, part, 0.5), 0.125 * 1.1547 + 1e-5);  // sqrt of 1 + 1/4 + 1/16 + …
    const at::Tensor of_a = (part.a * part.a).sum(1), of_b = (part.b * part.b).sum(0);
    EXPECT_LT(distance(of_a, of_b), 1e-5) << "both factors have the roots";
    EXPECT_NEAR(of_a[0].item<double>(), 1.0 / 0.5, 1e-4);
  }
}

TEST(Pissa, IterationsComeNearAndAreTheSameEveryTime) {
  const at::Tensor weight = graded(17, 12);
  const double best = norm_left(weight, pissa(weight, 4, 2.0, -1, 1), 2.0);
  const LowRank part = pissa(weight, 4, 2.0, 8, 3);
  EXPECT_LT(norm_left(weight, part, 2.0), best * 1.01);
  EXPECT_TRUE(pissa(weight, 4, 2.0, 8, 3).a.equal(part.a));
  EXPECT_FALSE(pissa(weight, 4, 2.0, 0, 3).a.equal(part.a));
}

TEST(Olora, TakesTheFirstColumnsAndRows) {
  const at::Tensor weight = at::randn({7, 5});
  const LowRank part = olora(weight, 5);
  EXPECT_LT(norm_left(weight, part, 1.0), 1e-5);
  EXPECT_EQ(olora(weight, 2).b.sizes(), (at::IntArrayRef{7, 2}));
}

struct File {
  testing_support::TempDir dir;
  at::Tensor weight = graded(8, 6);
  File() {
    io::write_tensors(dir / "model.safetensors", {{"layer.weight", weight}, {"other.weight", at::randn({3, 3})}});
  }
  io::SourcePtr started(LoraConfig config, bool matrices = true) const {
    config.rank = 2;
    config.alpha = 6;
    return started_source(io::open_weights(dir.path()), {config, {"layer"}, 5}, matrices);
  }
};

TEST(StartedSource, HoldsTheMatricesAndWhatTheyLeave) {
  const File file;
  LoraConfig config;
  for (const LoraInit init : {LoraInit::pissa, LoraInit::olora}) {
    config.init = init;
    const io::SourcePtr source = file.started(config);
    ASSERT_EQ(source->tensors().size(), 4U);
    const at::Tensor a = io::read_tensor(*source, "layer.lora_A.default.weight");
    const at::Tensor b = io::read_tensor(*source, "layer.lora_B.default.weight");
    const at::Tensor left = io::read_tensor(*source, "layer.weight");
    EXPECT_LT(distance(left + at::matmul(b, a) * 3.0, file.weight), 1e-5);
    EXPECT_GT(distance(left, file.weight), 0.05);
    for (const auto& [begin, count] : {std::pair{0, 1}, {5, 20}, {41, 7}}) {
      at::Tensor part = at::empty({count}, at::kFloat);
      source->read(*source->find("layer.weight"), begin, count, part.data_ptr());
      EXPECT_LT(distance(part, left.flatten().narrow(0, begin, count)), 1e-6);
    }
    EXPECT_EQ(file.started(config, false)->tensors().size(), 2U);
  }
}

TEST(StartedSource, NamesALayerThatIsNotThere) {
  const File file;
  const auto text = message_of<RequestError>([&] {
    started_source(io::open_weights(file.dir.path()), {LoraConfig{}, {"layers.0.q_proj"}, 0}, true);
  });
  EXPECT_NE(text.find("'layers.0.q_proj'"), std::string::npos) << text;
}

TEST(Converted, TheAdapterForTheBaseAsItWasHasTwiceTheRank) {
  const File file;
  LoraConfig config;
  config.init = LoraInit::pissa;
  const io::SourcePtr source = file.started(config);
  nn::ParamState a, b;
  a.name = "layer.lora_A.default.weight";
  a.shape = {2, 6};
  b.name = "layer.lora_B.default.weight";
  b.shape = {8, 2};
  const at::Tensor now_a = at::randn(a.shape), now_b = at::randn(b.shape);
  const at::Tensor both_a = converted(a, now_a, *source), both_b = converted(b, now_b, *source);
  EXPECT_EQ(both_a.sizes(), at::IntArrayRef(converted_shape(a)));
  EXPECT_EQ(both_b.sizes(), at::IntArrayRef(converted_shape(b)));
  const at::Tensor trained = io::read_tensor(*source, "layer.weight") + at::matmul(now_b, now_a) * 3.0;
  EXPECT_LT(distance(file.weight + at::matmul(both_b, both_a) * 3.0, trained), 1e-4);
  for (const bool rslora : {false, true}) {
    Lora lora;
    lora.config = config;
    lora.config.rslora = rslora;
    lora.config.rank_pattern = {{"q_proj", 3}};
    const Lora twice = converted(lora);
    for (const char* name : {"q_proj", "v_proj"}) {
      EXPECT_EQ(twice.config.layer(name).rank, 2 * lora.config.layer(name).rank);
      EXPECT_NEAR(twice.config.scaling(twice.config.layer(name)), lora.config.scaling(lora.config.layer(name)), 1e-9);
    }
  }
}

}  // namespace
}  // namespace tessera::adapt
