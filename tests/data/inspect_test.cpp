#include "tessera/data/inspect.hpp"

#include <gtest/gtest.h>

#include "data/small_shard.hpp"
#include "data/toy.hpp"
#include "tessera/core/error.hpp"
#include "tessera/image/image.hpp"

namespace tessera::data {
namespace {

using testing_support::read_file;
using testing_support::TempDir;
using testing_support::write_file;

class InspectTest : public ::testing::Test {
 protected:
  InspectTest() {
    write_shard(dir_ / "a.h5", small_header(), small_shard());
    config_.shards = dir_.path().string();
    config_.output_dir = (dir_ / "pictures").string();
  }
  TempDir dir_;
  InspectConfig config_;
};

TEST_F(InspectTest, CountsWhatIsThere) {
  const auto report = run_inspect(config_);
  EXPECT_NE(report.text.find("train: reason_seg/ReasonSeg/train"), std::string::npos) << report.text;
  EXPECT_NE(report.text.find(small_header().tokenizer_hash), std::string::npos);
  EXPECT_NE(report.text.find("images 2"), std::string::npos) << report.text;
  EXPECT_NE(report.text.find("7 … 9 … 13"), std::string::npos) << report.text;
  EXPECT_TRUE(report.pictures.empty());
}

TEST_F(InspectTest, ShowsASampleAsTextAndPicture) {
  config_.sample = 0;
  const auto report = run_inspect(config_);
  EXPECT_NE(report.text.find("text of 9 tokens"), std::string::npos) << report.text;
  ASSERT_EQ(report.pictures.size(), 1U);
  const auto picture = image::decode(image::bytes_of(read_file(report.pictures[0])), "picture");
  const auto photo = image::decode(image::bytes_of(read_file(toy::photograph(0))), "photo", {.exif_orientation = true});
  EXPECT_EQ(picture.height, photo.height);
  EXPECT_EQ(picture.width, 2 * photo.width);
  config_.sample = 3;
  EXPECT_THROW(run_inspect(config_), RequestError);
}

TEST_F(InspectTest, WritesAContactSheet) {
  config_.sheet = (dir_ / "sheet.png").string();
  config_.sheet_samples = 2;
  EXPECT_EQ(run_inspect(config_).pictures, std::vector<std::string>{config_.sheet});
  EXPECT_NO_THROW(image::probe(image::bytes_of(read_file(config_.sheet)), "sheet"));
}

TEST_F(InspectTest, VerifyNamesTheShardAndTheDataset) {
  config_.verify = true;
  EXPECT_TRUE(run_inspect(config_).faults.empty());
  auto bytes = read_file(dir_ / "a.h5");
  bytes[bytes.find("text of 9 tokens")] = 'T';
  write_file(dir_ / "a.h5", bytes);
  const auto faults = run_inspect(config_).faults;
  ASSERT_EQ(faults.size(), 1U);
  EXPECT_NE(faults[0].find("a.h5"), std::string::npos);
  EXPECT_NE(faults[0].find("conversations/text"), std::string::npos);
}

}  // namespace
}  // namespace tessera::data
