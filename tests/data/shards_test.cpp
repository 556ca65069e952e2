#include "tessera/data/shards.hpp"

#include <gtest/gtest.h>

#include "data/small_shard.hpp"
#include "data/toy.hpp"
#include "tessera/core/error.hpp"
#include "tessera/data/manifest.hpp"

namespace tessera::data {
namespace {

namespace fs = std::filesystem;
using testing_support::read_file;
using testing_support::TempDir;
using testing_support::write_file;

class ShardsTest : public ::testing::Test {
 protected:
  void write(const std::string& name, const ShardHeader& header = small_header()) {
    write_shard(dir_ / name, header, small_shard());
  }
  Shards open(const ShardRequirements& requirements = {}, const std::string& split = "train") {
    return Shards::open(dir_.path().string(), split, requirements);
  }
  std::string refusal(const ShardRequirements& requirements = {}, const std::string& split = "train") {
    try {
      open(requirements, split);
    } catch (const RequestError& error) {
      return error.what();
    }
    return "";
  }
  TempDir dir_;
};

TEST_F(ShardsTest, AreOneTableInOrderOfName) {
  write("b.h5");
  write("a.h5");
  const auto shards = open();
  ASSERT_EQ(shards.size(), 6);
  EXPECT_TRUE(shards.files()[0].path().string().ends_with("a.h5"));
  EXPECT_EQ(shards.family_of(2), "vqa");
  EXPECT_EQ(shards.source_of(3), "reason_seg/ReasonSeg/train");
  EXPECT_EQ(shards.read(5).conversations.at(0).ids.size(), 13U);
}

TEST_F(ShardsTest, KnowItemsByTheirDraws) {
  write("a.h5");
  write("b.h5");
  const auto populations = open().populations();
  ASSERT_EQ(populations.size(), 2U);
  ASSERT_EQ(populations[0].items.size(), 2U);  // the same number in two shards is two items
  EXPECT_EQ(populations[0].items[0].first, 0);
  EXPECT_EQ(populations[0].items[0].draws, 2);
  EXPECT_EQ(populations[0].items[1].first, 3);
  EXPECT_EQ(populations[1].items.size(), 2U);
  EXPECT_EQ(open().evaluation_rows(), (std::vector<std::int64_t>{0, 2, 3, 5}));
}

TEST_F(ShardsTest, RefuseAnotherTokenizerOrTemplate) {
  write("a.h5");
  EXPECT_NO_THROW(open({.tokenizer_hash = small_header().tokenizer_hash, .conversation_template = "llava_v1"}));
  EXPECT_NE(refusal({.tokenizer_hash = "ffff"}).find("a.h5"), std::string::npos);
  EXPECT_NE(refusal({.tokenizer_hash = "ffff"}).find("another tokenizer"), std::string::npos);
  EXPECT_NE(refusal({.tokenizer_hash = "", .conversation_template = "llava_llama_2"}).find("--conv_type"),
            std::string::npos);
  auto other = small_header();
  other.tokenizer_hash = "another";
  write("b.h5", other);
  EXPECT_NE(refusal().find("b.h5"), std::string::npos);
}

TEST_F(ShardsTest, RefuseAFileThatIsMissingOrCutShort) {
  write("a.h5");
  Manifest manifest;
  const auto bytes = static_cast<std::int64_t>(fs::file_size(dir_ / "a.h5"));
  manifest.shards = {{"a.h5", "train", bytes, "", "", 2, 3}, {"b.h5", "train", bytes, "", "", 2, 3}};
  write_manifest(dir_ / "manifest.json", manifest);
  EXPECT_NE(refusal().find("b.h5' is missing"), std::string::npos);
  write("b.h5");
  EXPECT_EQ(refusal(), "");
  const auto whole = read_file(dir_ / "b.h5");
  write_file(dir_ / "b.h5", whole.substr(0, whole.size() - 1));
  EXPECT_NE(refusal().find("b.h5"), std::string::npos);
  EXPECT_NE(refusal().find("cut short"), std::string::npos);
}

TEST_F(ShardsTest, RefuseFoldersWithoutTheSplit) {
  EXPECT_NE(refusal().find("no .h5 file"), std::string::npos);
  EXPECT_THROW(Shards::open("/nowhere", "train", {}), RequestError);
  write("a.h5");
  EXPECT_NE(refusal({}, "val").find("'train'"), std::string::npos);
}

TEST_F(ShardsTest, OpenSeveralFoldersAndSingleFiles) {
  write("a.h5");
  write("b.h5");
  const auto a = (dir_ / "a.h5").string();
  EXPECT_EQ(Shards::open(a, "train", {}).size(), 3);
  EXPECT_EQ(Shards::open(a + "," + (dir_ / "b.h5").string(), "train", {}).size(), 6);
  EXPECT_THROW(Shards::open(a + ",", "train", {}), RequestError);
}

}  // namespace
}  // namespace tessera::data
