// Steps of training an adapter against PEFT's with torch's AdamW; on as many ranks as this program was started with.
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <gtest/gtest.h>

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

TEST_P(AdapterSteps, LossesAndWeightsAreThoseOfPeft) {
  AdapterRun run(GetParam().golden, GetParam().adapters);
  const io::TensorMap expected = io::read_tensors(run.folder() / "steps.safetensors");
  const at::Tensor losses = expected.at("losses");
  shard::Optimizer optimizer = run.optimizer();
  for (std::int64_t i = 0; i < losses.size(0); ++i) {
    EXPECT_TRUE(close(run.step(optimizer).cpu(), losses[i])) << "step " << i;
  }
  EXPECT_GT((losses[0] - losses[-1]).abs().item<double>(), 0.05) << "the steps change nothing";
  EXPECT_EQ(run.expect_trained(expected) + 1, static_cast<int>(expected.size()));
}

INSTANTIATE_TEST_SUITE_P(Train, AdapterSteps,
                         testing::Values(Case{"lora_regex_patterns"}, Case{"lora_layer_indices"},
                                         Case{"lora_modules_to_save"}, Case{"dora_all_linear"},
                                         Case{"dora_rslora_some"}, Case{"lora_pissa"}, Case{"lora_olora"},
                                         Case{"lora_embedding"}, Case{"prefix_grouped"}, Case{"prefix_mpt"},
                                         Case{"prefix_and_lora", {"adapter", "prefix"}}),
                         [](const auto& instance) { return std::string(instance.param.golden); });

}  // namespace
}  // namespace tessera::train
