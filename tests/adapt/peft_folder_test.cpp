#include "tessera/adapt/peft_folder.hpp"

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "models/golden.hpp"
#include "support/support.hpp"
#include "tessera/core/error.hpp"
#include "tessera/io/model_folder.hpp"

namespace tessera::adapt {
namespace {

namespace fs = std::filesystem;
using testing_support::golden_model;

const Rename kSame = [](const std::string& name) { return std::optional(name); };

class PeftGolden : public testing::TestWithParam<const char*> {};

TEST_P(PeftGolden, AMergedFolderHoldsWhatPeftMerges) {
  const fs::path folder = golden_model(GetParam());
  const testing_support::TempDir out;
  const MergeReport report = merge_folder({folder, {folder / "adapter"}, out / "merged"});
  const io::TensorMap merged = io::read_tensors(out / "merged/model.safetensors");
  const io::TensorMap expected = io::read_tensors(folder / "expected.safetensors");
  int changed = 0;
  const io::TensorMap base = io::read_tensors(folder / "model.safetensors");
  for (const auto& [name, value] : merged) {
    EXPECT_TRUE(testing_support::close(value, expected.at("merged." + name))) << name;
    changed += value.equal(base.at(name)) ? 0 : 1;
  }
  EXPECT_GE(changed, report.merged);
  EXPECT_LE(changed, report.merged + report.replaced);
  EXPECT_EQ(static_cast<std::int64_t>(merged.size()), report.tensors);
  EXPECT_TRUE(fs::exists(out / "merged/config.json"));
  EXPECT_FALSE(fs::exists(out / "merged/inputs.safetensors"));
}

TEST_P(PeftGolden, AnyRangeOfAMergedWeightIsThatRangeOfTheWhole) {
  const fs::path folder = golden_model(GetParam());
  const auto source = merged_source(io::open_weights(folder), open_peft_folder(folder / "adapter", kSame));
  const io::TensorInfo& info = *source->find("model.layers.1.self_attn.v_proj.weight");
  const at::Tensor whole = io::read_tensor(*source, info).flatten();
  for (const auto& [begin, count] : {std::pair{0, 1}, {3, 50}, {static_cast<int>(info.numel()) - 7, 7}, {5, 0}}) {
    at::Tensor part = at::empty({count}, at::kFloat);
    source->read(info, begin, count, part.data_ptr());
    EXPECT_TRUE(testing_support::close(part, whole.narrow(0, begin, count), 1e-6, 1e-6)) << begin << "+" << count;
  }
}

INSTANTIATE_TEST_SUITE_P(Adapt, PeftGolden,
                         testing::Values("lora_query_value", "lora_all_rslora", "lora_regex_patterns",
                                         "lora_layer_indices", "lora_modules_to_save", "dora_all_linear",
                                         "dora_rslora_some", "adalora_pruned", "adalora_all_linear_pruned",
                                         "lora_pissa", "lora_olora", "lora_embedding", "lora_bias", "lora_base_bias"),
                         [](const auto& instance) { return std::string(instance.param); });

/// A copy of a golden adapter whose configuration or tensors a test spoils.
struct Copy {
  testing_support::TempDir dir;
  Copy() { fs::copy(golden_model("lora_query_value") / "adapter", dir.path(), fs::copy_options::recursive); }
  std::string error() const {
    try {
      merged_source(io::open_weights(golden_model("lora_query_value")), open_peft_folder(dir.path(), kSame));
    } catch (const RequestError& error) {
      return error.what();
    }
    return "";
  }
};

TEST(PeftFolder, AnIntactCopyOpens) {
  EXPECT_EQ(Copy().error(), "");
}

TEST(PeftFolder, RefusesATensorThatIsNoLoraMatrix) {
  const Copy copy;
  io::TensorMap tensors = io::read_tensors(copy.dir / "adapter_model.safetensors");
  tensors["base_model.model.model.norm.weight"] = at::randn({2});
  io::write_tensors(copy.dir / "adapter_model.safetensors", tensors);
  EXPECT_NE(copy.error().find("model.norm.weight"), std::string::npos);
}

TEST(PeftFolder, RefusesAnAWithoutItsB) {
  const Copy copy;
  io::TensorMap tensors = io::read_tensors(copy.dir / "adapter_model.safetensors");
  tensors.erase("base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight");
  io::write_tensors(copy.dir / "adapter_model.safetensors", tensors);
  EXPECT_NE(copy.error().find("no lora_B"), std::string::npos);
}

TEST(PeftFolder, RefusesALayerThatTheModelLacks) {
  const Copy copy;
  io::TensorMap tensors = io::read_tensors(copy.dir / "adapter_model.safetensors");
  tensors["base_model.model.other.lora_A.weight"] = at::randn({3, 4});
  tensors["base_model.model.other.lora_B.weight"] = at::randn({4, 3});
  io::write_tensors(copy.dir / "adapter_model.safetensors", tensors);
  EXPECT_NE(copy.error().find("'other'"), std::string::npos);
}

TEST(PeftFolder, RefusesAMagnitudeThatTheConfigurationDoesNotKnow) {
  const Copy copy;
  io::TensorMap tensors = io::read_tensors(copy.dir / "adapter_model.safetensors");
  tensors["base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector"] = at::randn({24});
  io::write_tensors(copy.dir / "adapter_model.safetensors", tensors);
  EXPECT_NE(copy.error().find("use_dora is false"), std::string::npos);
}

TEST(PeftFolder, RanksAndAlphasAreThoseOfThePatterns) {
  const PeftFolder adapter = open_peft_folder(golden_model("lora_regex_patterns") / "adapter", kSame);
  const auto layer = [&](const char* name) { return adapter.config.layer(std::string("model.layers.") + name); };
  EXPECT_EQ(layer("0.self_attn.q_proj").rank, 3);
  EXPECT_EQ(layer("0.self_attn.k_proj").rank, 2);
  EXPECT_EQ(layer("0.mlp.down_proj").rank, 5);
  EXPECT_EQ(layer("1.mlp.down_proj").rank, 3);
  EXPECT_EQ(layer("1.mlp.down_proj").alpha, 3);
  EXPECT_EQ(layer("0.self_attn.q_proj").alpha, 7);
  EXPECT_EQ(layer("1.self_attn.q_proj").alpha, 9);
}

TEST(PeftFolder, WeightsThatWereTrainedWholeReplaceTheBases) {
  const Copy copy;
  const at::Tensor head = at::randn({31, 24});
  io::write_tensors(copy.dir / "non_lora_trainables.safetensors", {{"base_model.model.lm_head.weight", head}});
  const auto source =
      merged_source(io::open_weights(golden_model("lora_query_value")), open_peft_folder(copy.dir.path(), kSame));
  EXPECT_TRUE(io::read_tensor(*source, "lm_head.weight").equal(head));
}

TEST(MergeFolder, RefusesToWriteOverTheModel) {
  const fs::path folder = golden_model("lora_query_value");
  EXPECT_THROW(merge_folder({folder, {folder / "adapter"}, folder}), RequestError);
}

}  // namespace
}  // namespace tessera::adapt
