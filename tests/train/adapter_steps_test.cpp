// Steps of training an adapter against PEFT's with torch's AdamW; on as many ranks as this program was started with.
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <gtest/gtest.h>

#include "tessera/adapt/prefix.hpp"
#include "tessera/io/safetensors.hpp"
#include "train/adapter_run.hpp"

namespace tessera::train {
namespace {

using testing_support::AdapterRun;
using testing_support::close;

struct Case {
  const char* golden;
  std::vector<std::string> adapters = {"adapter"};
};

class AdapterSteps : public testing::TestWithParam<Case> {};

void expect_losses(AdapterRun& run, const io::TensorMap& expected) {
  const at::Tensor losses = expected.at("losses");
  shard::Optimizer optimizer = run.optimizer();
  for (std::int64_t i = 0; i < losses.size(0); ++i) {
    EXPECT_TRUE(close(run.step(optimizer).cpu(), losses[i])) << "step " << i;
  }
  EXPECT_GT((losses[0] - losses[-1]).abs().item<double>(), 0.05) << "the steps change nothing";
}

TEST_P(AdapterSteps, LossesAndWeightsAreThoseOfPeft) {
  AdapterRun run(GetParam().golden, GetParam().adapters);
  const io::TensorMap expected = io::read_tensors(run.folder() / "steps.safetensors");
  expect_losses(run, expected);
  EXPECT_EQ(run.expect_trained(expected) + 1, static_cast<int>(expected.size()));
}

INSTANTIATE_TEST_SUITE_P(Train, AdapterSteps,
                         testing::Values(Case{"lora_regex_patterns"}, Case{"lora_layer_indices"},
                                         Case{"lora_modules_to_save"}, Case{"dora_all_linear"},
                                         Case{"dora_rslora_some"}, Case{"lora_pissa"}, Case{"lora_olora"},
                                         Case{"lora_embedding"}, Case{"lora_bias"}, Case{"lora_base_bias"},
                                         Case{"prefix_grouped"}, Case{"prefix_mpt"},
                                         Case{"prefix_and_lora", {"adapter", "prefix"}}),
                         [](const auto& instance) { return std::string(instance.param.golden); });

// PEFT saves the product of the projection, which says little of its weights: the steps begin from its own parameters.
TEST(AdapterSteps, OfAProjectedPrefixAreThoseOfPeft) {
  std::optional<adapt::Prefix> prefix;
  AdapterRun run("prefix_projected", {}, [&](models::ForwardModel& model) -> io::SourcePtr {
    for (const nn::Param& param : model.layout().params()) param->trainable = false;
    prefix = adapt::attach_prefix(model.layout(), {3, true, 10});
    return std::make_shared<io::SafetensorsReader>(testing_support::golden_model("prefix_projected") /
                                                   "start.safetensors");
  });
  const io::TensorMap expected = io::read_tensors(run.folder() / "steps.safetensors");
  expect_losses(run, expected);
  run.engine().with_gathered(prefix->unit, true, [&] {
    EXPECT_TRUE(close(adapt::prompt_embeddings(*prefix), expected.at(adapt::kPromptEmbeddings), 1e-3, 1e-3));
  });
}

}  // namespace
}  // namespace tessera::train
