#include "tessera/models/compose.hpp"

#include <ATen/core/Tensor.h>
#include <ATen/ops/full.h>
#include <ATen/ops/randn.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "models/golden.hpp"
#include "nn/support.hpp"
#include "support/support.hpp"
#include "tessera/core/error.hpp"
#include "tessera/io/model_folder.hpp"
#include "tessera/models/forward.hpp"

namespace tessera::models {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using testing_support::golden_model;
using testing_support::TempDir;
using testing_support::write_file;

/// The golden LLaMA with a small tokenizer beside it, and the golden CLIP.
struct Sources {
  TempDir dir;
  ComposeRequest request;
  Sources() {
    fs::create_directories(dir / "words");
    for (const char* file : {"config.json", "model.safetensors"}) {
      fs::copy_file(golden_model("llama_grouped_left_padded") / file, dir / "words" / file);
    }
    fs::copy_file(fs::path(TESSERA_SOURCE_DIR) / "tests/golden/text/models/tok512/tokenizer.model",
                  dir / "words/tokenizer.model");
    request.language_model = dir / "words";
    request.vision_tower = golden_model("clip_30px_gelu");
    request.output = dir / "llava";
  }
  std::string refusal() const {
    try {
      compose_llava(request);
    } catch (const RequestError& error) {
      EXPECT_FALSE(fs::exists(request.output));
      return error.what();
    }
    return "accepted";
  }
};

TEST(Compose, TheFolderRunsAndKeepsEveryWeightOfItsSources) {
  const Sources sources;
  const ComposeReport report = compose_llava(sources.request);
  const io::TensorMap words = io::read_tensors(sources.dir / "words/model.safetensors");
  const io::TensorMap tower = io::read_tensors(sources.request.vision_tower / "model.safetensors");
  const io::TensorMap all = io::read_tensors(sources.dir / "llava/model.safetensors");
  EXPECT_EQ(all.size(), words.size() + tower.size() + 4);
  EXPECT_EQ(report.tensors, static_cast<std::int64_t>(all.size()));
  EXPECT_EQ(report.image_token_id, 512);
  EXPECT_EQ(report.pad_token_id, 513);
  EXPECT_EQ(report.rows, 576);
  for (const auto& [name, value] : words) {
    const at::Tensor& found = all.at("language_model." + name);
    EXPECT_TRUE(found.narrow(0, 0, value.size(0)).equal(value)) << name;
  }
  for (const auto& [name, value] : tower) EXPECT_TRUE(all.at("vision_tower." + name).equal(value)) << name;

  ForwardRequest request;
  request.model = sources.request.output;
  const std::int64_t side = nlohmann::json::parse(testing_support::read_file(sources.dir / "llava/config.json"))
                                .at("vision_config")
                                .at("image_size")
                                .get<std::int64_t>();
  const std::int64_t features = nlohmann::json::parse(testing_support::read_file(sources.dir / "llava/config.json"))
                                    .at("image_seq_length")
                                    .get<std::int64_t>();
  const TensorMap out = run_forward(request, {{"input_ids", at::full({1, features}, 512, at::kLong)},
                                              {"pixel_values", at::randn({1, 3, side, side})}});
  EXPECT_EQ(out.at("image_features").size(1), features);
  EXPECT_EQ(out.at("logits").size(2), 576);
}

TEST(Compose, ADryRunSaysTheSameAndWritesNothing) {
  Sources sources;
  sources.request.dry_run = true;
  const ComposeReport planned = compose_llava(sources.request);
  EXPECT_FALSE(fs::exists(sources.request.output));
  sources.request.dry_run = false;
  const ComposeReport done = compose_llava(sources.request);
  EXPECT_EQ(planned.bytes, done.bytes);
  EXPECT_EQ(planned.tensors, done.tensors);
  EXPECT_EQ(planned.rows, done.rows);
}

TEST(Compose, FilesOfWeightsKeepToTheirSize) {
  Sources sources;
  sources.request.shard_bytes = 8000;
  sources.request.dtype = "bf16";
  const ComposeReport report = compose_llava(sources.request);
  EXPECT_GT(report.files, 2U);
  std::size_t files = 0;
  for (const auto& entry : fs::directory_iterator(sources.request.output)) {
    files += entry.path().extension() == ".safetensors" ? 1 : 0;
  }
  EXPECT_EQ(files, report.files);
  const auto folder = io::open_weights(sources.request.output);
  for (const auto& info : folder->tensors()) EXPECT_EQ(info.type, io::Elem::bf16) << info.name;
  EXPECT_EQ(report.dtype, "bfloat16");
}

TEST(Compose, NamesEverythingThatDoesNotFitAtOnce) {
  const Sources sources;
  io::TensorMap words = io::read_tensors(sources.dir / "words/model.safetensors");
  words.erase("model.norm.weight");
  words["model.layers.0.input_layernorm.weight"] = at::randn({3});
  words["model.layers.0.mlp.up_proj.bias"] = at::randn({3});
  io::write_tensors(sources.dir / "words/model.safetensors", words);
  const std::string text = sources.refusal();
  EXPECT_THAT(text, HasSubstr("'model.norm.weight' is missing"));
  EXPECT_THAT(text, HasSubstr("'model.layers.0.input_layernorm.weight' is [3]"));
}

TEST(Compose, TensorsWithoutAPlaceAreLeftOutAndNamed) {
  const Sources sources;
  io::TensorMap words = io::read_tensors(sources.dir / "words/model.safetensors");
  words["model.layers.0.mlp.up_proj.bias"] = at::randn({3});
  io::write_tensors(sources.dir / "words/model.safetensors", words);
  EXPECT_EQ(compose_llava(sources.request).left_out, std::vector<std::string>{"model.layers.0.mlp.up_proj.bias"});
}

TEST(Compose, RefusesWhatIsNoLlava) {
  Sources sources;
  write_file(sources.dir / "words/config.json", R"({"model_type": "mpt"})");
  EXPECT_THAT(sources.refusal(), HasSubstr("llama, mistral or qwen2"));
  sources.request.language_model = golden_model("llama_grouped_left_padded");
  EXPECT_THAT(sources.refusal(), HasSubstr("no tokenizer"));
  EXPECT_THROW(projector_init_from_name("zeros"), RequestError);
  EXPECT_EQ(projector_init_from_name("uniform"), ProjectorInit::uniform);
}

TEST(Compose, PixelsOfAnotherSizeThanTheTowersAreRefused) {
  Sources sources;
  fs::copy(sources.request.vision_tower, sources.dir / "clip", fs::copy_options::recursive);
  sources.request.vision_tower = sources.dir / "clip";
  write_file(sources.dir / "clip/preprocessor_config.json", R"({"size": 31, "crop_size": 31})");
  EXPECT_THAT(sources.refusal(), HasSubstr("31 x 31"));
}

TEST(Compose, DoesNotWriteOverAFolder) {
  const Sources sources;
  write_file(sources.dir / "llava", "mine");
  EXPECT_THROW(compose_llava(sources.request), RequestError);
  EXPECT_EQ(testing_support::read_file(sources.dir / "llava"), "mine");
}

// A value that fp16 does not hold shows while the weights are written.
TEST(Compose, NothingIsLeftOfAFolderThatCouldNotBeFinished) {
  Sources sources;
  io::TensorMap words = io::read_tensors(sources.dir / "words/model.safetensors");
  words["model.norm.weight"] = words.at("model.norm.weight").mul(1e6);
  io::write_tensors(sources.dir / "words/model.safetensors", words);
  sources.request.dtype = "fp16";
  EXPECT_THAT(sources.refusal(), HasSubstr("beyond fp16's range"));
  for (const auto& entry : fs::directory_iterator(sources.dir.path())) EXPECT_EQ(entry.path().filename(), "words");
}

}  // namespace
}  // namespace tessera::models
