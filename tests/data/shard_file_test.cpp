#include "tessera/data/shard_file.hpp"

#include <gtest/gtest.h>

#include <functional>

#include "data/small_shard.hpp"
#include "data/toy.hpp"
#include "tessera/core/error.hpp"
#include "tessera/io/hdf5.hpp"

namespace tessera::data {
namespace {

namespace fs = std::filesystem;
using testing_support::read_file;
using testing_support::TempDir;
using testing_support::write_file;

class ShardFileTest : public ::testing::Test {
 protected:
  fs::path write(const ShardData& data = small_shard(), const ShardHeader& header = small_header()) {
    write_shard(dir_ / "train.h5", header, data);
    return dir_ / "train.h5";
  }
  /// The message with which the shard is refused.
  std::string refusal(const ShardData& data) {
    fs::remove(dir_ / "train.h5");
    const auto path = write(data);
    try {
      const ShardFile file(path);
    } catch (const RequestError& error) {
      return error.what();
    }
    return "";
  }
  TempDir dir_;
};

TEST_F(ShardFileTest, GivesBackWhatWasWritten) {
  const ShardFile file(write());
  const auto data = small_shard();
  EXPECT_EQ(file.header().tokenizer_hash, small_header().tokenizer_hash);
  EXPECT_EQ(file.header().seg_token_id, kSmallSeg);
  ASSERT_EQ(file.samples(), 3);
  const auto sample = file.read(0);
  EXPECT_EQ(sample.image_name, "photo0.jpg");
  EXPECT_EQ(std::string(sample.image.begin(), sample.image.end()), read_file(toy::photograph(0)));
  ASSERT_EQ(sample.conversations.size(), 2U);
  EXPECT_EQ(sample.conversations[1].ids, (std::vector<std::int32_t>{1, 501, -200, 502, 13, 500, 2}));
  EXPECT_EQ(sample.conversations[1].labels, (std::vector<std::int32_t>{-100, -100, -100, -100, -100, 500, 2}));
  EXPECT_EQ(sample.conversations[1].question, "question 2");
  ASSERT_EQ(sample.targets.size(), 2U);
  EXPECT_EQ(image::rle_area(sample.targets[0]), 5 * 40);
  EXPECT_EQ(sample.targets[0], sample.targets[1]);
  EXPECT_FALSE(sample.ignore);
  const auto second = file.read(1);
  EXPECT_EQ(second.item, 4);
  EXPECT_EQ(second.draw, 1);
  EXPECT_EQ(second.is_sentence, 1);
  EXPECT_EQ(image::rle_area(second.targets.at(0)), 5);
  ASSERT_TRUE(second.ignore);
  EXPECT_TRUE(file.read(2).targets.empty());
}

TEST_F(ShardFileTest, KnowsSizesWithoutReading) {
  const ShardFile file(write());
  const auto sizes = file.sizes_of(0);
  EXPECT_EQ(sizes.image_bytes, static_cast<std::int64_t>(read_file(toy::photograph(0)).size()));
  EXPECT_EQ(sizes.conversations, 2);
  EXPECT_EQ(sizes.tokens, 16);
  EXPECT_EQ(sizes.longest_tokens, 9);
  EXPECT_EQ(sizes.targets, 2);
}

TEST_F(ShardFileTest, RefusesAFileThatWasCutShort) {
  const auto path = write();
  const auto bytes = read_file(path);
  for (const double part : {0.0, 0.01, 0.5, 0.99}) {
    write_file(path, bytes.substr(0, static_cast<std::size_t>(part * static_cast<double>(bytes.size()))));
    try {
      const ShardFile file(path);
      ADD_FAILURE() << "opened " << part;
    } catch (const RequestError& error) {
      EXPECT_NE(std::string(error.what()).find("train.h5"), std::string::npos) << error.what();
    }
  }
}

TEST_F(ShardFileTest, RefusesOtherFilesAndNewerVersions) {
  write_file(dir_ / "text.h5", "no HDF5 at all");
  EXPECT_THROW(ShardFile(dir_ / "text.h5"), RequestError);
  EXPECT_THROW(ShardFile(dir_ / "missing.h5"), RequestError);
  auto other = io::H5File::create(dir_ / "other.h5");
  other.attributes().set("format", "something else");
  other.commit();
  EXPECT_THROW(ShardFile(dir_ / "other.h5"), RequestError);
  auto newer = io::H5File::create(dir_ / "newer.h5");
  newer.attributes().set("format", "tessera-shard");
  newer.attributes().set("format_major", std::int64_t{2});
  newer.attributes().set("format_minor", std::int64_t{0});
  newer.commit();
  try {
    const ShardFile file(dir_ / "newer.h5");
    ADD_FAILURE() << "a newer version was read";
  } catch (const RequestError& error) {
    EXPECT_NE(std::string(error.what()).find("2.0"), std::string::npos) << error.what();
  }
}

TEST_F(ShardFileTest, RefusesTablesThatContradictEachOther) {
  EXPECT_EQ(refusal(small_shard()), "");
  const auto refused_at = [&](const char* table, const std::function<void(ShardData&)>& harm) {
    auto data = small_shard();
    harm(data);
    EXPECT_NE(refusal(data).find(table), std::string::npos) << table << ": " << refusal(data);
  };
  refused_at("images/width", [](auto& d) { d.images.width.pop_back(); });
  refused_at("samples/image", [](auto& d) { d.samples.image[1] = 2; });
  refused_at("samples/source", [](auto& d) { d.samples.source[1] = -1; });
  refused_at("samples/conversation_offsets", [](auto& d) { d.samples.conversation_offsets[1] = 5; });
  refused_at("samples/conversation_offsets", [](auto& d) { d.samples.conversation_offsets[1] = 0; });
  refused_at("samples/target_offsets", [](auto& d) { d.samples.target_offsets.back() = 2; });
  refused_at("conversations/labels", [](auto& d) { d.conversations.labels.offsets[1] -= 1; });
  refused_at("targets/mask", [](auto& d) { d.target_mask[0] = 2; });
  refused_at("targets/mask", [](auto& d) { d.masks.height[0] += 1; });
  refused_at("images/bytes", [](auto& d) { d.images.bytes.offsets[1] = -1; });
}

TEST_F(ShardFileTest, NamesTheSampleWhoseImageChanged) {
  auto data = small_shard();
  data.images.bytes.values[data.images.bytes.values.size() / 4] ^= 1;
  const ShardFile file(write(data));
  try {
    file.read(0);
    ADD_FAILURE() << "a flipped bit went unseen";
  } catch (const RunError& error) {
    EXPECT_NE(std::string(error.what()).find("sample 0"), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find("photo0.jpg"), std::string::npos) << error.what();
  }
  EXPECT_NO_THROW(file.read(2));
}

TEST_F(ShardFileTest, VerifyFindsAFlippedBitAnywhere) {
  const auto path = write();
  EXPECT_TRUE(ShardFile(path).verify().empty());
  const auto sound = read_file(path);
  const auto at = sound.find("text of 9 tokens");
  ASSERT_NE(at, std::string::npos);
  auto harmed = sound;
  harmed[at] = static_cast<char>(harmed[at] ^ 1);
  write_file(path, harmed);
  const auto faults = ShardFile(path).verify();
  ASSERT_EQ(faults.size(), 1U);
  EXPECT_NE(faults[0].find("conversations/text/values"), std::string::npos) << faults[0];
}

TEST_F(ShardFileTest, VerifyFindsSegTokensWithoutMasks) {
  auto data = small_shard();
  data.conversations.ids.values[4] = static_cast<std::int32_t>(kSmallSeg);
  const auto faults = ShardFile(write(data)).verify();
  ASSERT_EQ(faults.size(), 1U);
  EXPECT_NE(faults[0].find("sample 0"), std::string::npos) << faults[0];
}

}  // namespace
}  // namespace tessera::data
