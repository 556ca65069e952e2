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
