#include "tessera/io/model_folder.hpp"

#include <gtest/gtest.h>

#include "io/weights_support.hpp"
#include "support/limits.hpp"
#include "support/support.hpp"
#include "tessera/core/error.hpp"

namespace tessera::io {
namespace {

using testing::first_byte;
using testing::write_bytes_file;
using testing_support::message_of;
using testing_support::TempDir;
using testing_support::write_file;

TEST(OpenWeights, TakesFilesInTransformersOrder) {
  TempDir dir;
  write_bytes_file(dir / "adapter_model.safetensors", {{"x", 1}});
  EXPECT_EQ(first_byte(*open_weights(dir.path()), "x"), 1);
  write_bytes_file(dir / "part", {{"x", 2}});
  write_file(dir / "model.safetensors.index.json", R"({"weight_map": {"x": "part"}})");
  EXPECT_EQ(first_byte(*open_weights(dir.path()), "x"), 2);
  write_bytes_file(dir / "model.safetensors", {{"x", 3}});
  EXPECT_EQ(first_byte(*open_weights(dir.path()), "x"), 3);
  EXPECT_EQ(find_weights(dir.path()), dir / "model.safetensors");
}

TEST(OpenWeights, OpensSingleFilesAndIndexesByName) {
  TempDir dir;
  write_bytes_file(dir / "some.safetensors", {{"x", 5}});
  write_file(dir / "some.index.json", R"({"weight_map": {"x": "some.safetensors"}})");
  EXPECT_EQ(first_byte(*open_weights(dir / "some.safetensors"), "x"), 5);
  EXPECT_EQ(first_byte(*open_weights(dir / "some.index.json"), "x"), 5);
}

TEST(OpenWeights, NamesWhatIsMissing) {
  TempDir dir;
  const auto said = message_of<RequestError>([&] { open_weights(dir.path()); });
  EXPECT_NE(said.find(dir.path().string()), std::string::npos);
  EXPECT_NE(said.find("model.safetensors, model.safetensors.index.json"), std::string::npos) << said;
  EXPECT_NE(message_of<RequestError>([&] { open_weights(dir / "none"); }).find("No such file"), std::string::npos);
}

// zero_to_fp32 wrote one file at first, a folder of shards under the same name since DeepSpeed 0.15.3.
TEST(OpenWeights, TakesAFolderOfShardsUnderAFilesName) {
  TempDir dir;
  std::filesystem::create_directories(dir / "pytorch_model.bin");
  write_bytes_file(dir / "pytorch_model.bin/part", {{"x", 7}});
  write_file(dir / "pytorch_model.bin/pytorch_model.bin.index.json", R"({"weight_map": {"x": "part"}})");
  EXPECT_EQ(first_byte(*open_weights(dir.path()), "x"), 7);
  EXPECT_EQ(first_byte(*open_weights(dir / "pytorch_model.bin"), "x"), 7);
}

// The layout is that of DeepSpeed's save_checkpoint, as LISA and transformers' Trainer leave it.
TEST(OpenWeights, SendsZeroShardsToTheirConsolidation) {
  TempDir dir;
  std::filesystem::create_directories(dir / "global_step500");
  write_file(dir / "latest", "global_step500");
  write_file(dir / "global_step500/mp_rank_00_model_states.pt", "PK");
  write_file(dir / "global_step500/bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt", "PK");
  for (const char* place : {"", "global_step500", "global_step500/mp_rank_00_model_states.pt"}) {
    const auto said = message_of<RequestError>([&] { open_weights(dir / place); });
    EXPECT_NE(said.find("zero_to_fp32.py"), std::string::npos) << place << ": " << said;
  }
  write_bytes_file(dir / "model.safetensors", {{"x", 3}});
  EXPECT_EQ(first_byte(*open_weights(dir.path()), "x"), 3) << "weights beside the shards are taken";
}

TEST(ModelFolder, ReadsTheConfigAndFindsFilesBeside) {
  TempDir dir;
  write_file(dir / "config.json", R"({"hidden_size": 64})");
  write_file(dir / "tokenizer.model", "x");
  const ModelFolder folder(dir.path());
  EXPECT_EQ(folder.config().integer("hidden_size"), 64);
  EXPECT_EQ(folder.file("tokenizer.model"), dir / "tokenizer.model");
  EXPECT_FALSE(folder.file("tokenizer.json").has_value());
  EXPECT_FALSE(folder.has_weights());
  EXPECT_THROW(folder.weights(), RequestError);
}

TEST(ModelFolder, RefusesAFolderThatIsNone) {
  TempDir dir;
  EXPECT_NE(message_of<RequestError>([&] { ModelFolder(dir.path()); }).find("no config.json"), std::string::npos);
  EXPECT_NE(message_of<RequestError>([&] { ModelFolder(dir / "x"); }).find("no such folder"), std::string::npos);
  write_file(dir / "config.json", "{");
  EXPECT_NE(message_of<RequestError>([&] { ModelFolder(dir.path()); }).find("not JSON"), std::string::npos);
  write_file(dir / "config.json", "[]");
  EXPECT_NE(message_of<RequestError>([&] { ModelFolder(dir.path()); }).find("not a JSON object"), std::string::npos);
}

}  // namespace
}  // namespace tessera::io
