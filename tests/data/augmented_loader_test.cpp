// The loader with augmentation, and in LLaVA's order.
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/sum.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "data/sides.hpp"
#include "data/toy.hpp"
#include "tessera/core/error.hpp"
#include "tessera/data/loader.hpp"
#include "tessera/text/image_tokens.hpp"

namespace tessera::data {
namespace {

namespace fs = std::filesystem;

InputSpec small_spec() {
  InputSpec spec;
  spec.sam_size = 48;
  spec.clip = image::with_size(spec.clip, 28);
  spec.image_patches = 4;
  spec.model_max_length = 1000;
  return spec;
}

LoaderConfig config_of(std::int64_t global_batch, std::int64_t batch = 1) {
  LoaderConfig config;
  config.batch_size = batch;
  config.global_batch_size = global_batch;
  config.workers = 2;
  config.prefetch_mib = 1;
  return config;
}

class Augmented : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    dir_ = std::make_unique<testing_support::TempDir>();
    // One target, the left third of the photograph.
    std::vector<toy::ReasonSegItem> items;
    for (std::size_t i = 0; i < 4; ++i) {
      items.push_back({"item" + std::to_string(i),
                       i,
                       {i == 3 ? "the one on the LEFT" : "the thing"},
                       false,
                       R"([{"label": "target", "points": [[0, 0], [99, 0], [99, 150], [0, 150]]}])"});
    }
    toy::write_reason_seg(*dir_ / "data", "train", items);
    auto config = toy::small_config(*dir_ / "data", *dir_ / "shards");
    config.val_dataset = "";
    config.explanatory = -1;
    config.draws = 1;
    toy::prepare(config);
    shards_ = std::make_unique<Shards>(Shards::open((*dir_ / "shards").string(), "train", {}));
  }
  static void TearDownTestSuite() {
    shards_.reset();
    dir_.reset();
  }
  static StepBatches step(const LoaderConfig& config, int rank = 0, int world = 1) {
    return Loader(config, small_spec(), *shards_, 7, rank, world).next();
  }
  static std::unique_ptr<testing_support::TempDir> dir_;
  static std::unique_ptr<Shards> shards_;
};
std::unique_ptr<testing_support::TempDir> Augmented::dir_;
std::unique_ptr<Shards> Augmented::shards_;

TEST_F(Augmented, MirrorsImageAndMaskTogetherButNotWhereTheTextSaysLeft) {
  const auto plain = step(config_of(16));
  auto config = config_of(16);
  config.augment.flip = 1;
  const auto mirrored = step(config);
  int flipped = 0;
  for (std::size_t i = 0; i < plain.micro.size(); ++i) {
    const auto& before = plain.micro[i];
    const auto& after = mirrored.micro[i];
    const bool left = before.samples[0].image_name.find("item3") != std::string::npos;
    const auto turned = [](const at::Tensor& t) { return t.flip({t.dim() - 1}); };
    EXPECT_TRUE(at::equal(after.batch.masks[0], left ? before.batch.masks[0] : turned(before.batch.masks[0])));
    EXPECT_EQ(at::equal(after.batch.images_clip, before.batch.images_clip), left);
    flipped += !left;
  }
  EXPECT_GT(flipped, 0);
  EXPECT_LT(flipped, 16);
}

TEST_F(Augmented, CropsAndScalesImageAndMaskAlike) {
  auto config = config_of(32);
  config.augment.crop_min_area = 0.1;
  config.augment.scale_min = 0.5;
  config.augment.scale_max = 0.8;
  config.augment.brightness = 0.3;
  const auto changed = step(config);
  std::set<std::pair<std::int64_t, std::int64_t>> sizes;
  for (const auto& one : changed.micro) {
    const auto& size = one.batch.original[0];
    EXPECT_EQ(one.batch.masks[0].sizes(), (std::vector<std::int64_t>{1, size.height, size.width}));
    sizes.insert({size.height, size.width});
    const auto area = one.batch.masks[0].sum().item<float>();
    EXPECT_TRUE(one.batch.masks[0].eq(0).logical_or(one.batch.masks[0].eq(1)).all().item<bool>());
    EXPECT_GT(area, 0);  // a crop never cuts the target away
    EXPECT_LE(area, static_cast<float>(size.height * size.width));
  }
  EXPECT_GT(sizes.size(), 6U);
}

TEST_F(Augmented, DependsOnTheSampleAloneNotOnTheRanks) {
  auto config = config_of(12);
  config.augment.flip = 0.5;
  config.augment.crop_min_area = 0.5;
  config.augment.contrast = 0.4;
  const auto alone = step(config);
  for (const int world : {2, 3}) {
    for (int rank = 0; rank < world; ++rank) {
      const auto own = step(config, rank, world);
      for (std::size_t i = 0; i < own.micro.size(); ++i) {
        const auto& expected = alone.micro[static_cast<std::size_t>(own.micro[i].index)];
        EXPECT_TRUE(at::equal(own.micro[i].batch.images, expected.batch.images));
        EXPECT_TRUE(at::equal(own.micro[i].batch.masks[0], expected.batch.masks[0]));
      }
    }
  }
}

TEST_F(Augmented, RefusesSettingsOutOfRange) {
  auto config = config_of(12);
  config.augment.flip = 1.5;
  EXPECT_THROW(step(config), RequestError);
}

TEST(Sides, AreSpokenOfInWholeWordsAlone) {
  for (const char* text : {"on the left", "Leftmost cup", "the RIGHT-hand side", "\xe5\xb7\xa6\xe8\xbe\xb9"}) {
    EXPECT_TRUE(speaks_of_sides(text)) << text;
  }
  for (const char* text : {"bright light", "a cleft", "upright", ""}) EXPECT_FALSE(speaks_of_sides(text)) << text;
}

/// Conversations with and without images, of many lengths.
class Grouped : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    dir_ = std::make_unique<testing_support::TempDir>();
    std::string records = "[";
    for (int i = 0; i < 40; ++i) {
      std::string words = "word";
      for (int k = 0; k < i * 7 % 23; ++k) words += " more";
      const bool image = i % 4 != 0;
      records += std::string(i == 0 ? "" : ",") + "{" +
                 (image ? R"("image": ")" + std::to_string(i % 3) + R"(.jpg",)" : "") +
                 R"("conversations": [{"from": "human", "value": ")" + (image ? "<image>" : "") + words +
                 R"("}, {"from": "gpt", "value": "a"}]})";
    }
    testing_support::write_file(*dir_ / "talk.json", records + "]");
    for (std::size_t n = 0; n < 3; ++n) fs::copy_file(toy::photograph(n), *dir_ / (std::to_string(n) + ".jpg"));
    PrepareConfig config;
    config.data_path = {(*dir_ / "talk.json").string()};
    config.dataset = "llava";
    config.version = toy::model_folder().string();
    config.output_dir = (*dir_ / "shards").string();
    config.draws = 1;
    config.quiet = true;
    toy::prepare(config);
    shards_ = std::make_unique<Shards>(Shards::open(config.output_dir, "train", {}));
  }
  static void TearDownTestSuite() {
    shards_.reset();
    dir_.reset();
  }
  static LoaderConfig config() {
    auto config = config_of(12, 2);
    config.group_by_modality_length = true;
    return config;
  }
  static StoredSample first_with_image() {
    std::int64_t row = 0;
    while (shards_->sizes_of(row).images == 0) ++row;
    return shards_->read(row);
  }
  static std::unique_ptr<testing_support::TempDir> dir_;
  static std::unique_ptr<Shards> shards_;
};
std::unique_ptr<testing_support::TempDir> Grouped::dir_;
std::unique_ptr<Shards> Grouped::shards_;

TEST_F(Grouped, StreamsAreEqualForAnyRanksAndAcrossResume) {
  constexpr int kSteps = 9;  // more than two epochs
  Loader alone(config(), small_spec(), *shards_, 3, 0, 1);
  std::vector<StepBatches> whole;
  for (int s = 0; s < kSteps; ++s) whole.push_back(alone.next());
  for (const int world : {2, 3}) {
    for (int rank = 0; rank < world; ++rank) {
      Loader loader(config(), small_spec(), *shards_, 3, rank, world);
      for (const int s : {0, 1, 2, 3, 8, 5}) {
        loader.seek(s);
        const auto own = loader.next();
        for (const auto& one : own.micro) {
          const auto& expected = whole[static_cast<std::size_t>(s)].micro[static_cast<std::size_t>(one.index)];
          EXPECT_TRUE(at::equal(one.llava.input_ids, expected.llava.input_ids));
          EXPECT_TRUE(at::equal(one.llava.labels, expected.llava.labels));
          EXPECT_TRUE(at::equal(one.llava.images, expected.llava.images));
          EXPECT_EQ(one.llava.sample_keys, expected.llava.sample_keys);
        }
      }
    }
  }
}

TEST_F(Grouped, TakesEverySampleAndCountsPadding) {
  Loader grouped(config(), small_spec(), *shards_, 3, 0, 1);
  std::set<std::int64_t> rows;
  std::int64_t wasted = 0;
  for (int s = 0; s < 4; ++s) {
    const auto step = grouped.next();
    for (const auto& one : step.micro) {
      for (const auto& sample : one.samples) rows.insert(sample.row);
      EXPECT_EQ(one.llava.images.size(0), 2);  // a blank one for text alone
    }
    std::int64_t positions = 0;
    for (const auto& one : step.micro) positions += one.llava.input_ids.numel();
    EXPECT_EQ(step.tokens() + step.padding(), positions);
    wasted += step.padding();
  }
  EXPECT_EQ(rows.size(), 40U);
  EXPECT_GT(wasted, 0);
}

InputSpec spec_of_tiles() {
  auto spec = small_spec();
  spec.aspect = image::Aspect::anyres;
  spec.tiles = models::TileConfig{models::PatchMerge::spatial_unpad, {{28, 56}, {56, 28}, {56, 56}}, 28, 4};
  spec.model_max_length = 512;
  return spec;
}

TEST_F(Grouped, PicturesInTilesBringThemAndTheirSizes) {
  const std::vector<StoredSample> samples{shards_->read(1), shards_->read(0), shards_->read(2)};
  const bool alone = !samples[1].has_image();
  const auto spec = spec_of_tiles();
  CollateReport report;
  const auto batch = collate_llava(samples, {1, 2, 3}, shards_->header(), spec, report);
  ASSERT_EQ(batch.pictures.size(), 3U);
  std::int64_t first = 0;
  for (std::size_t i = 0; i < samples.size(); ++i) {
    const auto& picture = batch.pictures[i];
    if (!samples[i].has_image()) {
      EXPECT_EQ(picture.tiles, 1);
      EXPECT_TRUE(batch.images[first].eq(0).all().item<bool>());
    } else {
      EXPECT_EQ(picture.size, samples[i].size);
      const auto image = image::decode(samples[i].image, "test");
      const auto views = image::clip_views(image, spec.clip, image::Aspect::anyres, spec.tiles->pinpoints);
      ASSERT_EQ(picture.tiles, std::ssize(views));
      EXPECT_GT(picture.tiles, 1);
      at::Tensor wanted = at::empty({3, 28, 28});
      for (std::int64_t v = 0; v < picture.tiles; ++v) {
        image::clip_normalize(views[static_cast<std::size_t>(v)], spec.clip, {wanted.mutable_data_ptr<float>(), 2352});
        EXPECT_TRUE(at::equal(batch.images[first + v], wanted)) << i << ", tile " << v;
      }
    }
    first += picture.tiles;
  }
  EXPECT_EQ(batch.images.size(0), first);
  EXPECT_TRUE(alone) << "the data have text alone at row 0";
}

TEST_F(Grouped, LabelsBeyondTheCutAreIgnoredWhereTheirPicturesEnd) {
  const std::vector<StoredSample> samples{shards_->read(1)};
  auto spec = spec_of_tiles();
  CollateReport whole, cut;
  const auto before = collate_llava(samples, {1}, shards_->header(), spec, whole);
  const auto picture = spec.tiles->positions(before.pictures[0]);
  const auto length = before.input_ids.size(1) - 1 + picture;
  spec.model_max_length = length - 1;
  const auto after = collate_llava(samples, {1}, shards_->header(), spec, cut);
  EXPECT_EQ(after.input_ids.size(1), before.input_ids.size(1)) << "the text itself is shorter than that";
  EXPECT_EQ(cut.label_tokens, whole.label_tokens - 1);
  EXPECT_EQ(after.labels.ne(before.labels).sum().item<std::int64_t>(), 1);
  EXPECT_EQ(after.max_length, length - 1);
}

TEST_F(Grouped, InTilesTheOrderAndTheBytesFollowThePositions) {
  const auto spec = spec_of_tiles();
  const auto sizes = shards_->sizes_of(1);
  ASSERT_EQ(sizes.images, 1);
  EXPECT_EQ(spec.tiles_of(sizes), spec.tiles->picture(sizes.size).tiles);
  EXPECT_EQ(spec.positions_of(sizes), spec.tiles->positions(spec.tiles->picture(sizes.size)));
  EXPECT_EQ(small_spec().positions_of(sizes), 4);
  const auto text = shards_->sizes_of(0);
  EXPECT_EQ(spec.tiles_of(text), 1);
  EXPECT_EQ(spec.positions_of(text), 0);
  const auto tile = 3 * 28 * 28 * static_cast<std::int64_t>(sizeof(float));
  EXPECT_EQ(collated_bytes(sizes, spec, false) - collated_bytes(sizes, small_spec(), false),
            (spec.tiles_of(sizes) - 1) * tile);
  Loader loader(config(), spec, *shards_, 3, 0, 1);
  std::set<std::int64_t> rows;
  for (int s = 0; s < 4; ++s) {
    for (const auto& one : loader.next().micro) {
      for (const auto& sample : one.samples) rows.insert(sample.row);
      EXPECT_EQ(one.llava.pictures.size(), 2U);
    }
  }
  EXPECT_EQ(rows.size(), 40U);
}

TEST_F(Grouped, RefusesRates) {
  auto with_rates = config();
  with_rates.sample_rates = "1";
  EXPECT_THROW(Loader(with_rates, small_spec(), *shards_, 3, 0, 1), RequestError);
}

TEST_F(Grouped, CollatesRowsAsLlavasCollatorDoes) {
  std::vector<StoredSample> samples{shards_->read(0), shards_->read(1), shards_->read(2)};
  auto spec = small_spec();
  CollateReport report;
  const auto batch = collate_llava(samples, {1, 2, 3}, shards_->header(), spec, report);
  EXPECT_EQ(batch.input_ids.size(0), 3);
  EXPECT_EQ(batch.images.sizes(), (std::vector<std::int64_t>{3, 3, 28, 28}));
  std::int64_t supervised = 0;
  for (std::size_t r = 0; r < 3; ++r) {
    const auto& ids = samples[r].conversations[0].ids;
    const auto row = static_cast<std::int64_t>(r);
    for (std::size_t p = 0; p < ids.size(); ++p) {
      EXPECT_EQ(batch.input_ids[row][static_cast<std::int64_t>(p)].item<std::int64_t>(), ids[p]);
      supervised += p > 0 && samples[r].conversations[0].labels[p] != -100;
    }
    EXPECT_EQ(batch.attention_mask[row].sum().item<std::int64_t>(), static_cast<std::int64_t>(ids.size()));
    const bool blank = batch.images[row].eq(0).all().item<bool>();
    EXPECT_EQ(blank, !samples[r].has_image());
  }
  EXPECT_EQ(report.label_tokens, supervised);
  spec.model_max_length = 20;
  CollateReport cut;
  EXPECT_EQ(collate_llava(samples, {1, 2, 3}, shards_->header(), spec, cut).input_ids.size(1), 20);
  EXPECT_EQ(cut.cut_conversations, 3);
  EXPECT_EQ(cut.label_tokens, 0);  // the answers lie beyond the cut
}

TEST_F(Grouped, LabelsThatAnImagePushesBeyondTheEndAreNoTargets) {
  std::vector<StoredSample> samples{first_with_image()};
  const auto& labels = samples.front().conversations.front().labels;
  const auto targets = std::count_if(labels.begin() + 1, labels.end(), [](auto label) { return label != -100; });
  ASSERT_NE(labels.back(), -100);
  auto spec = small_spec();
  // The image takes four places for one, so there is room for all tokens but the last.
  spec.model_max_length = static_cast<std::int64_t>(labels.size()) + 2;
  CollateReport report;
  const auto batch = collate_llava(samples, {1}, shards_->header(), spec, report);
  EXPECT_EQ(batch.input_ids.size(1), static_cast<std::int64_t>(labels.size()));
  EXPECT_EQ(batch.labels.ne(-100).sum().item<std::int64_t>(), targets - 1);
  EXPECT_EQ(report.label_tokens, targets - 1);
}

TEST_F(Grouped, AnImageWhosePlaceIsCutOffGoesWithIt) {
  std::vector<StoredSample> samples{first_with_image(), shards_->read(0)};
  auto& sample = samples.front();
  const StoredImage image{sample.image_name, sample.image, sample.size, {}};
  sample.more_images = {image, image};
  auto& ids = sample.conversations.front().ids;
  ids[2] = ids[10] = ids[18] = text::kImageId;
  std::replace(ids.begin() + 19, ids.end(), std::int32_t{text::kImageId}, std::int32_t{5});
  for (const auto& [length, images] : std::vector<std::pair<std::int64_t, std::int64_t>>{{2048, 3}, {18, 2}, {10, 1}}) {
    auto spec = small_spec();
    spec.model_max_length = length;
    CollateReport report;
    const auto batch = collate_llava(samples, {1, 2}, shards_->header(), spec, report);
    EXPECT_EQ(batch.images.size(0), images + 1) << length;
    EXPECT_EQ(batch.input_ids[0].eq(text::kImageId).sum().item<std::int64_t>(), images) << length;
  }
}

}  // namespace
}  // namespace tessera::data
