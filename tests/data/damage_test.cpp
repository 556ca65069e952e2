// Every kind of damage that data sets and shards meet: reported with file and reason, counted, skipped, or fatal under
// --strict, where nothing has been written under its final name. A full disk ends the run, and leaves no half file.
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <zlib.h>

#include <algorithm>
#include <csignal>
#include <fstream>
#include <nlohmann/json.hpp>

#include "data/toy.hpp"
#include "tessera/core/error.hpp"
#include "tessera/core/file.hpp"
#include "tessera/core/random.hpp"
#include "tessera/data/inspect.hpp"
#include "tessera/data/shards.hpp"
#include "tessera/image/write.hpp"

namespace tessera::data {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing_support::read_file;
using testing_support::TempDir;
using testing_support::write_file;

std::string big_endian(std::uint32_t value) {
  std::string bytes;
  for (int shift = 24; shift >= 0; shift -= 8) bytes.push_back(static_cast<char>(value >> shift & 0xff));
  return bytes;
}

std::string png_chunk(const std::string& kind, const std::string& data) {
  const auto checked = kind + data;
  const auto sum =
      crc32(0, reinterpret_cast<const unsigned char*>(checked.data()), static_cast<unsigned>(checked.size()));
  return big_endian(static_cast<std::uint32_t>(data.size())) + checked + big_endian(static_cast<std::uint32_t>(sum));
}

/// A well-formed header that promises 3.6 thousand million pixels, and next to nothing behind it.
std::string enormous_png() {
  return std::string("\x89PNG\r\n\x1a\n", 8) +
         png_chunk("IHDR", big_endian(60000) + big_endian(60000) + std::string("\x08\x02\x00\x00\x00", 5)) +
         png_chunk("IDAT", std::string("\x78\x9c\x03\x00\x00\x00\x00\x01", 8)) + png_chunk("IEND", "");
}

std::string small_png() {
  return image::encode_png(image::Image(20, 30));
}

/// The same with one bit of its pixels' checksum flipped.
std::string png_of_wrong_checksum() {
  auto bytes = small_png();
  const auto at = bytes.find("IEND") - 5;  // the last byte of the checksum before
  bytes[at] = static_cast<char>(bytes[at] ^ 1);
  return bytes;
}

std::string odd_image(const std::string& name) {
  return read_file(fs::path(TESSERA_SOURCE_DIR) / "tests/golden/image/data/images" / name);
}

/// A data set of part annotations (COCO's layout), of dialogues and of ReasonSeg, sound until a test harms it.
class Damaged : public ::testing::Test {
 protected:
  Damaged() {
    const auto photos = root() / "vlpart/pascal_part/VOCdevkit/VOC2010/JPEGImages";
    fs::create_directories(photos);
    for (int n = 0; n < 3; ++n) {
      write_file(photos / ("p" + std::to_string(n) + ".png"), small_png());
      coco_["images"].push_back(
          {{"id", n}, {"file_name", "p" + std::to_string(n) + ".png"}, {"height", 20}, {"width", 30}});
      coco_["annotations"].push_back(annotation(10 + n, n, {{1, 1, 9, 1, 9, 9}}));
    }
    coco_["categories"] = {{{"id", 1}, {"name", "dog:head"}}};
    fs::create_directories(root() / "coco/train2017");
    for (int n = 0; n < 3; ++n) {
      write_file(root() / ("coco/train2017/v" + std::to_string(n) + ".png"), small_png());
      talk_.push_back(dialogue("v" + std::to_string(n) + ".png"));
    }
    config_.dataset_dir = root().string();
    config_.dataset = "sem_seg||vqa";
    config_.sem_seg_data = "pascal_part";
    config_.vqa_data = "talk";
    config_.val_dataset = "";
    config_.version = toy::model_folder().string();
    config_.draws = 2;
    config_.quiet = true;
  }
  fs::path root() const { return dir_ / "data"; }
  fs::path vqa_image(int n) const { return root() / ("coco/train2017/v" + std::to_string(n) + ".png"); }
  static json annotation(int id, int image, json segmentation) {
    return {{"id", id}, {"image_id", image}, {"category_id", 1}, {"segmentation", std::move(segmentation)}};
  }
  static json dialogue(const std::string& image) {
    return {{"image", image},
            {"conversations", {{{"from", "human"}, {"value", "<image>\nq"}}, {{"from", "gpt"}, {"value", "a"}}}}};
  }

  PrepareOutcome prepare(const std::string& output, bool strict) {
    write_file(root() / "vlpart/pascal_part/train.json", coco_.dump());
    write_file(root() / "llava_dataset/talk.json", talk_.dump());
    auto config = config_;
    config.output_dir = (dir_ / output).string();
    config.strict = strict;
    return toy::prepare(config);
  }

  /// One item is left out of the `kept` + 1 that there were, and said so with this file and reason; --strict refuses.
  void expect_one_fault(const std::string& file, const std::string& why, std::int64_t kept = 5) {
    const auto outcome = prepare("out", false);
    ASSERT_EQ(outcome.manifest.skipped.size(), 1U);
    const auto said = outcome.manifest.skipped[0].problem.text();
    EXPECT_NE(said.find(file), std::string::npos) << said;
    EXPECT_NE(said.find(why), std::string::npos) << said;
    std::int64_t skipped = 0, items = 0;
    for (const auto& [source, counts] : outcome.manifest.counts) skipped += counts.skipped, items += counts.items;
    EXPECT_EQ(skipped, 1);
    EXPECT_EQ(items, kept);
    EXPECT_EQ(read_manifest(dir_ / "out/manifest.json").skipped.at(0).problem.text(), said);
    EXPECT_EQ(Shards::open((dir_ / "out").string(), "train", {}).size(), 2 * kept);
    try {
      prepare("strict", true);
      ADD_FAILURE() << "--strict took it";
    } catch (const RequestError& error) {
      EXPECT_NE(std::string(error.what()).find(why), std::string::npos) << error.what();
    }
    EXPECT_FALSE(fs::exists(dir_ / "strict"));
  }

  TempDir dir_;
  json coco_ = {{"images", json::array()}, {"annotations", json::array()}};
  json talk_ = json::array();
  PrepareConfig config_;
};

TEST_F(Damaged, SoundDataHasNoFault) {
  EXPECT_TRUE(prepare("out", true).manifest.skipped.empty());
}

TEST_F(Damaged, TruncatedJpeg) {
  const auto photo = read_file(toy::photograph(0));
  write_file(vqa_image(1), photo.substr(0, photo.size() / 2));
  expect_one_fault("v1.png", "image");
}

TEST_F(Damaged, PngOfAWrongChecksum) {
  write_file(vqa_image(1), png_of_wrong_checksum());
  expect_one_fault("v1.png", "image");
}

TEST_F(Damaged, FileOfNoBytes) {
  write_file(vqa_image(1), "");
  expect_one_fault("v1.png", "image");
}

TEST_F(Damaged, ImagesOf16BitsAndOfFourInksAreTaken) {
  write_file(vqa_image(0), odd_image("basn2c16.png"));
  write_file(vqa_image(1), odd_image("made_cmyk.jpg"));
  write_file(vqa_image(2), odd_image("basn0g16.png"));
  const auto outcome = prepare("out", true);
  EXPECT_TRUE(outcome.manifest.skipped.empty());
  for (const auto& shard : outcome.manifest.shards)
    EXPECT_TRUE(ShardFile(dir_ / ("out/" + shard.name)).verify().empty());
}

TEST_F(Damaged, PathThatLeavesTheImageFolder) {
  talk_[1]["image"] = "../train2017/v1.png";
  expect_one_fault("../train2017/v1.png", "leaves the data set folder");
}

TEST_F(Damaged, HeaderOf60000By60000Pixels) {
  write_file(vqa_image(1), enormous_png());
  expect_one_fault("v1.png", "60000 x 60000");
}

TEST_F(Damaged, JsonOfWrongTypes) {
  talk_[1]["conversations"][0]["value"] = 7;
  expect_one_fault("talk.json: [1].conversations[0].value", "expected a text, found number");
}

TEST_F(Damaged, JsonOfWrongTypesInAnnotations) {
  coco_["annotations"][1]["segmentation"] = "none";
  // The image stays, without an annotation: nothing to ask about it.
  expect_one_fault("annotations[1]", "expected a list", 5);
}

TEST_F(Damaged, PolygonOfTwoPoints) {
  coco_["annotations"][1]["segmentation"] = {{1, 1, 5, 5}};
  expect_one_fault("annotations[1].segmentation", "three points");
}

TEST_F(Damaged, RunLengthsThatOverrun) {
  coco_["annotations"][1]["segmentation"] = {{"size", {20, 30}}, {"counts", {100, 600}}};
  expect_one_fault("annotations[1].segmentation", "600");
}

TEST_F(Damaged, CompressedRunLengthsThatOverrun) {
  coco_["annotations"][1]["segmentation"] = {{"size", {20, 30}}, {"counts", "ooooooooooooo"}};
  expect_one_fault("annotations[1].segmentation", "");
}

TEST_F(Damaged, AnnotationOfAnImageThatDoesNotExist) {
  coco_["annotations"].push_back(annotation(99, 77, {{1, 1, 9, 1, 9, 9}}));
  expect_one_fault("annotations[3]", "image 77 does not exist", 6);
}

TEST_F(Damaged, AnnotationIdThatIsThereTwice) {
  coco_["annotations"].push_back(annotation(10, 2, {{1, 1, 9, 1, 9, 9}}));
  expect_one_fault("annotations[3]", "annotation id 10 is there twice", 6);
}

TEST_F(Damaged, ImageIdThatIsThereTwice) {
  coco_["images"].push_back(coco_["images"][0]);
  expect_one_fault("images[3]", "image id 0 is there twice", 6);
}

TEST_F(Damaged, EmptySplit) {
  talk_ = json::array();
  config_.dataset = "vqa";
  for (const bool strict : {false, true}) {
    try {
      prepare("out", strict);
      ADD_FAILURE() << "an empty split was taken";
    } catch (const RequestError& error) {
      EXPECT_NE(std::string(error.what()).find("hold no item at all"), std::string::npos) << error.what();
    }
    EXPECT_FALSE(fs::exists(dir_ / "out"));
  }
}

TEST_F(Damaged, SplitOfBrokenRecordsAlone) {
  config_.dataset = "vqa";
  for (auto& record : talk_) record["image"] = "none.png";
  for (const bool strict : {false, true}) {
    EXPECT_THROW(prepare("out", strict), RequestError);
    EXPECT_FALSE(fs::exists(dir_ / "out"));
  }
}

/// Limits the size of the files that this process writes, as a full disk would.
class FullDisk {
 public:
  explicit FullDisk(rlim_t bytes) : handler_(std::signal(SIGXFSZ, SIG_IGN)) {
    getrlimit(RLIMIT_FSIZE, &before_);
    rlimit limit{bytes, before_.rlim_max};
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FullDisk() {
    setrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, handler_);
  }
  FullDisk(const FullDisk&) = delete;
  FullDisk& operator=(const FullDisk&) = delete;

 private:
  void (*handler_)(int);
  rlimit before_{};
};

class PreparedOnce : public ::testing::Test {
 protected:
  PreparedOnce() {
    toy::write_small_set(dir_ / "data");
    config_ = toy::small_config(dir_ / "data", dir_ / "out");
    config_.shard_mib = 1;
  }
  std::vector<std::string> names() const {
    std::vector<std::string> found;
    for (const auto& [name, bytes] : toy::files_of(dir_ / "out")) found.push_back(name);
    return found;
  }
  TempDir dir_;
  PrepareConfig config_;
};

TEST_F(PreparedOnce, AFullDiskLeavesNoHalfFileAndTheRunGoesOnLater) {
  auto whole = config_;
  whole.output_dir = (dir_ / "whole").string();
  toy::prepare(whole);
  for (const bool strict : {true, false}) {
    config_.strict = strict;
    {
      const FullDisk full(200 << 10);
      try {
        toy::prepare(config_);
        ADD_FAILURE() << "written to a full disk";
      } catch (const RunError& error) {
        EXPECT_NE(std::string(error.what()).find((dir_ / "out").string()), std::string::npos) << error.what();
      }
    }
    for (const auto& name : names()) {  // whole shards alone, under whatever name
      if (name == kManifestName) continue;
      EXPECT_TRUE(ShardFile(dir_ / ("out/" + name)).verify().empty()) << name;
    }
    EXPECT_THROW(Shards::open((dir_ / "out").string(), "train", {}), RequestError);
  }
  config_.strict = false;
  toy::prepare(config_);
  const auto expected = toy::files_of(dir_ / "whole");
  const auto found = toy::files_of(dir_ / "out");
  ASSERT_EQ(found.size(), expected.size());
  for (const auto& [name, bytes] : expected) {
    if (!name.ends_with(".h5")) continue;
    EXPECT_TRUE(found.at(name) == bytes) << name;
  }
}

TEST_F(PreparedOnce, AShardThatWasCutShortIsNamed) {
  const auto outcome = toy::prepare(config_);
  const auto name = outcome.manifest.shards.front().name;
  const auto path = dir_ / ("out/" + name);
  const auto bytes = read_file(path);
  for (const double share : {0.0, 0.3, 0.999}) {
    write_file(path, bytes.substr(0, static_cast<std::size_t>(share * static_cast<double>(bytes.size()))));
    for (const bool with_manifest : {true, false}) {
      try {
        Shards::open(with_manifest ? (dir_ / "out").string() : path.string(), "train", {});
        ADD_FAILURE() << "opened at " << share;
      } catch (const RequestError& error) {
        EXPECT_NE(std::string(error.what()).find(name), std::string::npos) << error.what();
      }
    }
  }
}

/// What opening the folder and reading every sample says of it; empty when nothing.
std::string said_when_read(const fs::path& folder) {
  try {
    const auto shards = Shards::open(folder.string(), "train", {});
    for (std::int64_t row = 0; row < shards.size(); ++row) shards.read(row);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST_F(PreparedOnce, AFlippedBitIsFoundWhereverItLies) {
  config_.dataset = "reason_seg";
  const auto outcome = toy::prepare(config_);
  const auto name = outcome.manifest.shards.front().name;
  const auto path = dir_ / ("out/" + name);
  const auto sound = read_file(path);
  int seen_in_training = 0, flips = 0;
  // All over the file, and closely over its beginning, where the tables lie.
  std::vector<std::size_t> places;
  for (std::size_t i = 0; i < 60; ++i) places.push_back(i * (sound.size() / 60) + i);
  for (std::size_t i = 0; i < 120; ++i) places.push_back(i * 257);
  for (const auto at : places) {
    if (at >= sound.size()) continue;
    auto harmed = sound;
    harmed[at] = static_cast<char>(harmed[at] ^ (1 << (at % 8)));
    write_file(path, harmed);
    ++flips;
    const auto said = said_when_read(dir_ / "out");
    seen_in_training += !said.empty();
    EXPECT_TRUE(said.empty() || said.find(name) != std::string::npos) << said;
    try {
      InspectConfig inspect;
      inspect.shards = (dir_ / "out").string();
      inspect.verify = true;
      EXPECT_FALSE(run_inspect(inspect).faults.empty()) << "bit at byte " << at << " went unseen";
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(name), std::string::npos) << error.what();
    }
  }
  EXPECT_GT(seen_in_training, flips / 2);  // the others hit HDF5's unused bytes, texts for people, or unread tables
}

TEST_F(PreparedOnce, AFlippedBitIsFoundInAShardAloneWithoutItsManifest) {
  const auto outcome = toy::prepare(config_);
  const auto name = outcome.manifest.shards.front().name;
  const auto sound = read_file(dir_ / ("out/" + name));
  const auto path = dir_ / "alone.h5";
  write_file(path, sound);
  const auto put = [&](std::size_t at, char byte) {
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(static_cast<std::streamoff>(at)).put(byte);
  };
  RandomSequence random(20);
  std::vector<std::size_t> places;
  for (int i = 0; i < 260; ++i) places.push_back(random.below(sound.size()));
  // Closely where HDF5's structure and the attributes lie, whose damage could lead HDF5 itself astray.
  for (int i = 0; i < 260; ++i) places.push_back(random.below(32 << 10));
  for (const auto at : places) {
    put(at, static_cast<char>(sound[at] ^ (1 << random.below(8))));
    try {
      EXPECT_FALSE(ShardFile(path).verify().empty()) << "a bit at byte " << at << " went unseen";
    } catch (const RequestError& error) {
      EXPECT_NE(std::string(error.what()).find("alone.h5"), std::string::npos) << error.what();
    }
    put(at, sound[at]);
  }
}

TEST_F(PreparedOnce, ATokenThatChangedIsFoundWhenItsSampleIsRead) {
  const auto outcome = toy::prepare(config_);
  const auto path = dir_ / ("out/" + outcome.manifest.shards.front().name);
  const auto sound = read_file(path);
  const auto ids = ShardFile(path).read(0).conversations.at(0).ids;
  const std::string row(reinterpret_cast<const char*>(ids.data()), ids.size() * sizeof(std::int32_t));
  const auto at = sound.find(row);
  ASSERT_NE(at, std::string::npos);
  auto harmed = sound;
  harmed[at + 4] = static_cast<char>(harmed[at + 4] ^ 1);
  write_file(path, harmed);
  const ShardFile file(path);
  EXPECT_THROW(file.read(0), RunError);
  EXPECT_FALSE(file.verify().empty());
}

}  // namespace
}  // namespace tessera::data
