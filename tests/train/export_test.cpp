// What a run leaves for PEFT, transformers and LISA, read back from the files; on as many ranks as this program has.
#include "tessera/train/export.hpp"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/matmul.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <set>

#include "support/support.hpp"
#include "tessera/io/model_folder.hpp"
#include "train/toy_lisa.hpp"

namespace tessera::train {
namespace {

namespace fs = std::filesystem;

const std::string kPeftPrefix = "base_model.model.";

class ExportTest : public testing::Test {
 protected:
  ExportTest() {  // B is zero in a fresh adapter, and merging it would change nothing
    const at::NoGradGuard no_grad;
    for (auto& slice : model.engine->trained()) {
      for (const auto& piece : slice.pieces) {
        if (slice.layout->tensors()[piece.tensor].param->name.find(".lora_B.") == std::string::npos) continue;
        auto* data = slice.master.data_ptr<float>() + piece.slice_begin;
        for (std::int64_t k = 0; k < piece.count; ++k) data[k] = 0.03F * static_cast<float>(k % 7 - 3);
      }
    }
  }

  static at::Tensor read(const io::SourcePtr& file, const std::string& name) {
    const auto* info = file->find(name);
    if (info == nullptr) throw std::runtime_error("no " + name);
    auto out = at::empty(info->shape, at::kFloat);
    file->read_f32(*info, 0, info->numel(), out.data_ptr<float>());
    return out;
  }
  static std::multiset<std::string> names(const io::SourcePtr& file) {
    std::multiset<std::string> out;
    for (const auto& t : file->tensors()) {
      out.insert(t.name);
      EXPECT_GT(t.numel(), 0) << t.name;
    }
    return out;
  }
  template <class Wanted>
  std::multiset<std::string> names_where(Wanted&& wanted) {
    std::multiset<std::string> out;
    for (const auto& p : model.layout->params()) {
      if (wanted(*p)) out.insert(p->name);
    }
    return out;
  }
  static bool is_lora(const nn::ParamState& p) { return p.name.find(".lora_") != std::string::npos; }

  toy::Job job;
  LoadedModel model = job.load(job.config());
};

TEST_F(ExportTest, TheAdapterHasPeftsNamesAndItsValues) {
  const auto dir = job.fresh_folder("adapter");
  export_adapter(model, "the/base", dir, "fp32");
  const auto file = io::open_weights(dir / "adapter_model.safetensors");
  std::multiset<std::string> wanted;
  for (const char* layer : {"0", "1"}) {
    for (const char* projection : {"q_proj", "v_proj"}) {
      for (const char* part : {"lora_A", "lora_B"}) {
        wanted.insert(std::string("base_model.model.model.layers.") + layer + ".self_attn." + projection + "." + part +
                      ".weight");
      }
    }
  }
  EXPECT_EQ(names(file), wanted);
  const std::string layer = "model.layers.1.self_attn.v_proj.";
  for (const std::string part : {"lora_A", "lora_B"}) {
    const auto written = read(file, "base_model.model." + layer + part + ".weight");
    EXPECT_TRUE(written.equal(toy::value_of(model, layer + part + ".default.weight"))) << part;
    EXPECT_GT(written.abs().max().item<float>(), 0.0F) << part;
  }
  const auto config = nlohmann::json::parse(testing_support::read_file(dir / "adapter_config.json"));
  EXPECT_EQ(config.at("peft_type"), "LORA");
  EXPECT_EQ(config.at("r"), 4);
  EXPECT_EQ(config.at("lora_alpha"), 12);
  EXPECT_EQ(config.at("base_model_name_or_path"), "the/base");
}

TEST(ExportDora, AdapterAndMergedModelHaveTheMagnitudes) {
  toy::Job job;
  auto config = job.config();
  config.adapter.use_dora = true;
  config.adapter.target_modules = {"model.layers.0.self_attn.q_proj", "mlp.down_proj"};
  config.adapter.rank_pattern = {"down_proj=2"};
  config.adapter.modules_to_save = {"model.norm", "lm_head"};
  auto model = job.load(config);
  const std::string layer = "model.layers.0.self_attn.q_proj";
  const auto base = toy::value_of(model, layer + ".weight");
  const auto magnitude = toy::value_of(model, layer + ".lora_magnitude_vector.default.weight");
  EXPECT_TRUE(magnitude.allclose(base.square().sum(1).sqrt(), 1e-5, 1e-6));

  const auto dir = job.fresh_folder("dora");
  export_adapter(model, "the/base", dir, "fp32");
  export_other_trained(model, dir / "other");
  export_merged(model, dir / "merged", "fp32", Log());
  const auto file = io::open_weights(dir / "adapter_model.safetensors");
  const auto read = [](const io::SourcePtr& from, const std::string& name) {
    const auto* info = from->find(name);
    if (info == nullptr) throw std::runtime_error("no " + name);
    auto out = at::empty(info->shape, at::kFloat);
    from->read_f32(*info, 0, info->numel(), out.data_ptr<float>());
    return out;
  };
  EXPECT_TRUE(read(file, "base_model.model." + layer + ".lora_magnitude_vector").equal(magnitude));
  EXPECT_EQ(read(file, "base_model.model.model.layers.1.mlp.down_proj.lora_A.weight").size(0), 2);
  for (const std::string name : {"lm_head.weight", "model.norm.weight"}) {
    EXPECT_TRUE(model.layout->find(name)->trainable) << name;
    EXPECT_TRUE(read(file, "base_model.model." + name).equal(toy::value_of(model, name))) << name;
    EXPECT_EQ(io::open_weights(dir / "other/non_lora_trainables.bin")->find("base_model.model." + name), nullptr)
        << name;
  }
  // A fresh adapter changes nothing.
  EXPECT_TRUE(read(io::open_weights(dir / "merged"), layer + ".weight").allclose(base, 1e-5, 1e-6));
  const auto json = nlohmann::json::parse(testing_support::read_file(dir / "adapter_config.json"));
  EXPECT_EQ(json.at("use_dora"), true);
  EXPECT_EQ(json.at("rank_pattern").at("down_proj"), 2);
  EXPECT_EQ(json.at("target_modules").size(), 2U);
}

TEST_F(ExportTest, OtherTrainedWeightsAreAllThoseThatAreNoAdapters) {
  const auto dir = job.fresh_folder("other");
  export_other_trained(model, dir);
  const auto file = io::open_weights(dir / "non_lora_trainables.bin");
  std::multiset<std::string> written;
  for (const auto& name : names(file)) written.insert(name.substr(kPeftPrefix.size()));
  EXPECT_EQ(written, names_where([](const nn::ParamState& p) { return p.trainable && !is_lora(p); }));
  EXPECT_EQ(written.count("lm_head.weight"), 1U);
  for (const auto& name : written) {
    EXPECT_TRUE(read(file, kPeftPrefix + name).equal(toy::value_of(model, name))) << name;
  }
}

TEST_F(ExportTest, TheMergedModelIsBasePlusScaledBTimesA) {
  const auto dir = job.fresh_folder("merged");
  export_merged(model, dir, "fp32", Log());
  const auto file = io::open_weights(dir);
  // The tower has no weights in its own folder, so that they are here too.
  EXPECT_EQ(names(file), names_where([](const nn::ParamState& p) { return !is_lora(p); }));
  for (const std::string projection : {"q_proj", "v_proj"}) {
    const auto layer = "model.layers.0.self_attn." + projection;
    const auto base = toy::value_of(model, layer + ".weight");
    const auto delta = at::matmul(toy::value_of(model, layer + ".lora_B.default.weight"),
                                  toy::value_of(model, layer + ".lora_A.default.weight"))
                           .mul(12.0 / 4.0);
    const auto merged = read(file, layer + ".weight");
    EXPECT_TRUE(merged.allclose(base.add(delta), 1e-5, 1e-6)) << layer;
    EXPECT_FALSE(merged.allclose(base, 1e-3, 1e-4)) << layer;
  }
  for (const std::string name : {"model.layers.0.self_attn.k_proj.weight", "model.embed_tokens.weight"}) {
    EXPECT_TRUE(read(file, name).equal(toy::value_of(model, name))) << name;
  }
}

TEST_F(ExportTest, TheMergedFolderLoadsAsAFinishedLisa) {
  const auto dir = job.fresh_folder("finished");
  export_merged(model, dir, "fp32", Log());
  const auto json = nlohmann::json::parse(testing_support::read_file(dir / "config.json"));
  EXPECT_EQ(json.at("vocab_size"), model.recipe->segments()->config().language.vocab_size());
  EXPECT_EQ(json.at("mm_vision_tower"), "clip");
  const auto added = nlohmann::json::parse(testing_support::read_file(dir / "added_tokens.json"));
  EXPECT_EQ(added.at("[SEG]"), model.recipe->segments()->config().seg_token_id);
  auto config = job.config();
  config.version = dir.string();
  config.random_init = false;  // nothing may be missing
  auto again = job.load(config, /*for_training=*/false, /*seed=*/99);
  const std::string name = "model.text_hidden_fcs.0.0.weight";
  EXPECT_TRUE(toy::value_of(again, name).equal(toy::value_of(model, name)));
}

TEST_F(ExportTest, ThePrecisionIsThatOfTheStoredWeights) {
  const auto dir = job.fresh_folder("half");
  export_merged(model, dir, "bf16", Log());
  const auto file = io::open_weights(dir);
  for (const auto& t : file->tensors()) EXPECT_EQ(t.type, io::Elem::bf16) << t.name;
  const std::string name = "model.layers.1.mlp.up_proj.weight";
  EXPECT_TRUE(read(file, name).equal(toy::value_of(model, name).to(at::kBFloat16).to(at::kFloat)));
  const auto json = nlohmann::json::parse(testing_support::read_file(dir / "config.json"));
  EXPECT_EQ(json.at("torch_dtype"), "bfloat16");
}

}  // namespace
}  // namespace tessera::train
