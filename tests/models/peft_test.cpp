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
#include "tessera/adapt/peft_config.hpp"
#include "tessera/adapt/peft_folder.hpp"
#include "tessera/models/forward.hpp"
#include "tessera/models/llama.hpp"
#include "tessera/nn/init.hpp"

namespace tessera::models {
namespace {

namespace fs = std::filesystem;
using testing_support::golden_model;

adapt::LoraConfig lisas() {
  adapt::LoraConfig config;
  config.rank = 3;
  config.alpha = 5;
  config.targets = {"q_proj", "o_proj", "down_proj"};
  return config;
}

adapt::LoraConfig pefts(adapt::TargetMatch match, std::vector<std::string> targets) {
  adapt::LoraConfig config = lisas();
  config.exclude.clear();
  config.match = match;
  config.targets = std::move(targets);
  return config;
}

adapt::LoraConfig config_of(const std::string& kind) {
  using adapt::TargetMatch;
  if (kind == "patterns") {
    auto config = pefts(TargetMatch::regex, {R"(.*\.(self_attn\.[qkv]|mlp\.up)_proj)"});
    config.rslora = true;
    config.rank_pattern = {{R"(layers\.1\.self_attn\.q_proj)", 4}, {"q_proj", 2}};
    config.alpha_pattern = {{"up_proj", 11}, {".*k_proj", 2.5}};
    return config;
  }
  if (kind == "indices") {
    auto config = pefts(TargetMatch::suffix, {"q_proj", "down_proj"});
    config.layers_to_transform = {1};
    config.layers_pattern = {"layers"};
    config.exclude_modules = {"layers.1.mlp.down_proj"};
    return config;
  }
  if (kind == "dora") {
    auto config = pefts(TargetMatch::all_linear, {});
    config.dora = true;
    return config;
  }
  if (kind == "embedding") return pefts(TargetMatch::suffix, {"embed_tokens", "q_proj"});
  if (kind == "adalora") {
    auto config = pefts(TargetMatch::suffix, {"q_proj", "down_proj"});
    config.adalora.emplace();
    config.adalora->init_r = 4;
    config.adalora->target_r = 2;
    config.adalora->total_step = 10;
    config.adalora->rank_pattern = {{"model.layers.0.self_attn.q_proj", {true, false, true, true}},
                                    {"model.layers.0.mlp.down_proj", {false, false, true, false}},
                                    {"model.layers.1.self_attn.q_proj", {false, false, false, false}},
                                    {"model.layers.1.mlp.down_proj", {true, true, true, true}}};
    return config;
  }
  if (kind == "saved") {
    auto config = pefts(TargetMatch::suffix, {"v_proj"});
    config.modules_to_save = {"lm_head", "model.norm"};
    return config;
  }
  return lisas();
}

/// Writes an adapter of our own making for the base model, every tensor drawn.
void write_adapter(const fs::path& base, const fs::path& adapter, const adapt::LoraConfig& config) {
  ForwardRequest request;
  request.model = base;
  const auto model = ForwardModel::open(request);
  const adapt::Lora lora = adapt::attach_lora(model->layout(), config);
  std::vector<nn::Param> written = model->layout().unit(lora.unit).params;
  written.insert(written.end(), lora.saved.begin(), lora.saved.end());
  io::TensorMap tensors;
  for (const nn::Param& param : written) {
    param->init = nn::Init::normal(0.3);
    at::Tensor value = at::empty(param->shape, at::kFloat);
    nn::fill_init(*param, 9, 0, param->numel(), value.data_ptr<float>());
    const at::Tensor saved = adapt::saved_part(lora, *param, value).contiguous();
    EXPECT_EQ(saved.sizes(), at::IntArrayRef(adapt::saved_shape(lora, *param)));
    tensors[adapt::peft_file_name(param->name)] = saved;
  }
  fs::create_directories(adapter);
  io::write_tensors(adapter / "adapter_model.safetensors", tensors);
  testing_support::write_file(adapter / "adapter_config.json", adapt::peft_config_json(lora, base.string()));
}

/// A prefix of our own making.
void write_prefix(const fs::path& base, const fs::path& adapter) {
  ForwardRequest request;
  request.model = base;
  const auto model = ForwardModel::open(request);
  const adapt::Prefix prefix = adapt::attach_prefix(model->layout(), {.num_virtual_tokens = 3});
  const nn::ParamState& param = *prefix.embedding;
  at::Tensor value = at::empty(param.shape, at::kFloat);
  nn::fill_init(param, 9, 0, param.numel(), value.data_ptr<float>());
  fs::create_directories(adapter);
  io::write_tensors(adapter / "adapter_model.safetensors", {{adapt::kPromptEmbeddings, value}});
  testing_support::write_file(adapter / "adapter_config.json", adapt::prefix_config_json(prefix, base.string()));
}

struct Written {
  testing_support::TempDir dir;
  fs::path base = golden_model("lora_query_value");
  std::string adapter = (dir / "adapter").string(), outputs = (dir / "outputs.safetensors").string();
  explicit Written(const std::string& kind) {
    kind == "prefix" ? write_prefix(base, adapter) : write_adapter(base, adapter, config_of(kind));
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

class Peft : public testing::TestWithParam<const char*> {};

TEST_P(Peft, LoadsOurAdapterAndComputesTheSame) {
  const Written w(GetParam());
  const auto result = Written::open("peft", {w.base.string(), w.adapter, w.outputs});
  if (result.status == 77) GTEST_SKIP() << result.output;
  EXPECT_EQ(result.status, 0) << result.output;
}

TEST_P(Peft, TransformersLoadsOurMergedModelAndComputesTheSame) {
  if (std::string(GetParam()) == "prefix") return;  // no weights hold a prefix
  const Written w(GetParam());
  const std::string merged = (w.dir / "merged").string();
  adapt::merge_folder({w.base, {w.adapter}, merged});
  const auto result = Written::open("merged", {merged, w.outputs});
  if (result.status == 77) GTEST_SKIP() << result.output;
  EXPECT_EQ(result.status, 0) << result.output;
}

INSTANTIATE_TEST_SUITE_P(Models, Peft,
                         testing::Values("substrings", "patterns", "indices", "dora", "saved", "embedding", "adalora",
                                         "prefix"),
                         [](const auto& instance) { return std::string(instance.param); });

}  // namespace
}  // namespace tessera::models
