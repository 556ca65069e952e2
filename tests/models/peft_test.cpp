// What is written here opens in PEFT and in transformers, and computes the same there.
#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "models/golden.hpp"
#include "nn/support.hpp"
#include "support/support.hpp"
#include "tessera/adapt/peft_folder.hpp"
#include "tessera/models/forward.hpp"
#include "tessera/models/llama.hpp"
#include "tessera/nn/init.hpp"

namespace tessera::models {
namespace {

namespace fs = std::filesystem;
using testing_support::golden_model;

/// Writes an adapter of our own making for the base model, every matrix drawn.
void write_adapter(const fs::path& base, const fs::path& adapter) {
  ForwardRequest request;
  request.model = base;
  const auto model = ForwardModel::open(request);
  adapt::LoraConfig config;
  config.rank = 3;
  config.alpha = 5;
  config.targets = {"q_proj", "o_proj", "down_proj"};
  const adapt::Lora lora = adapt::attach_lora(model->layout(), config);
  io::TensorMap tensors;
  for (const adapt::LoraLayer& layer : lora.layers) {
    for (const nn::Param& matrix : {layer.a, layer.b}) {
      matrix->init = nn::Init::normal(0.3);
      at::Tensor value = at::empty(matrix->shape, at::kFloat);
      nn::fill_init(*matrix, 9, 0, matrix->numel(), value.data_ptr<float>());
      tensors[adapt::peft_file_name(matrix->name)] = value;
    }
  }
  fs::create_directories(adapter);
  io::write_tensors(adapter / "adapter_model.safetensors", tensors);
  testing_support::write_file(adapter / "adapter_config.json", adapt::peft_config_json(lora, base.string()));
}

struct Written {
  testing_support::TempDir dir;
  fs::path base = golden_model("lora_query_value");
  std::string adapter = (dir / "adapter").string(), outputs = (dir / "outputs.safetensors").string();
  Written() {
    write_adapter(base, adapter);
    const at::Tensor ids = at::arange(2 * 9, at::kLong).mul(7).remainder(31).view({2, 9});
    ForwardRequest request;
    request.model = base;
    request.adapters = {adapter};
    const TensorMap found = run_forward(request, {{"input_ids", ids}});
    io::write_tensors(outputs, {{"input_ids", ids}, {"logits", found.at("logits")}});
    request.adapters.clear();
    const TensorMap plain = run_forward(request, {{"input_ids", ids}});
    EXPECT_GT(testing_support::distance(plain.at("logits"), found.at("logits")), 0.1) << "the adapter has no effect";
  }
  static testing_support::RunResult open(const std::string& kind, const std::vector<std::string>& paths) {
    const fs::path script = fs::path(TESSERA_SOURCE_DIR) / "tests/models/peft_opens.py";
    return testing_support::run(
        fmt::format("HF_HUB_OFFLINE=1 {} {} {} {}", TESSERA_PYTHON, script.string(), kind, fmt::join(paths, " ")));
  }
};

TEST(Peft, LoadsOurAdapterAndComputesTheSame) {
  const Written w;
  const auto result = Written::open("peft", {w.base.string(), w.adapter, w.outputs});
  if (result.status == 77) GTEST_SKIP() << result.output;
  EXPECT_EQ(result.status, 0) << result.output;
}

TEST(Transformers, LoadsOurMergedModelAndComputesTheSame) {
  const Written w;
  const std::string merged = (w.dir / "merged").string();
  adapt::merge_folder({w.base, {w.adapter}, merged});
  const auto result = Written::open("merged", {merged, w.outputs});
  if (result.status == 77) GTEST_SKIP() << result.output;
  EXPECT_EQ(result.status, 0) << result.output;
}

}  // namespace
}  // namespace tessera::models
