#include "tessera/data/collate.hpp"

#include <ATen/ops/equal.h>
#include <ATen/ops/sum.h>
#include <gtest/gtest.h>

#include "data/small_shard.hpp"
#include "data/toy.hpp"
#include "tessera/core/error.hpp"

namespace tessera::data {
namespace {

InputSpec small_spec() {
  InputSpec spec;
  spec.sam_size = 64;
  spec.clip = image::with_size(spec.clip, 28);
  spec.image_patches = 4;
  return spec;
}

class Collate : public ::testing::Test {
 protected:
  Collate() {
    write_shard(dir_ / "a.h5", small_header(), small_shard());
    file_.emplace(dir_ / "a.h5");
    for (std::int64_t i = 0; i < 3; ++i) samples_.push_back(file_->read(i));
  }
  models::LisaBatch collate_all(const InputSpec& spec, Purpose purpose = Purpose::training) {
    return collate(samples_, {100, 200, 300}, file_->header(), spec, purpose, report_);
  }
  static std::vector<std::int64_t> row(const at::Tensor& table, std::int64_t r) {
    const auto* data = table.const_data_ptr<std::int64_t>() + r * table.size(1);
    return {data, data + table.size(1)};
  }

  testing_support::TempDir dir_;
  std::optional<ShardFile> file_;
  std::vector<StoredSample> samples_;
  CollateReport report_;
};

TEST_F(Collate, PadsOnTheRightAndMarksWhatIsText) {
  const auto batch = collate_all(small_spec());
  EXPECT_EQ(batch.offset, (std::vector<std::int64_t>{0, 2, 3, 4}));
  EXPECT_EQ(batch.images_count(), 3);
  ASSERT_EQ(batch.input_ids.sizes(), (std::vector<std::int64_t>{4, 13}));
  EXPECT_EQ(row(batch.input_ids, 1), (std::vector<std::int64_t>{1, 501, -200, 502, 13, 500, 2, 0, 0, 0, 0, 0, 0}));
  EXPECT_EQ(row(batch.labels, 1),
            (std::vector<std::int64_t>{-100, -100, -100, -100, -100, 500, 2, -100, -100, -100, -100, -100, -100}));
  EXPECT_EQ(batch.attention_mask.sum().item<std::int64_t>(), 9 + 7 + 8 + 13);
  EXPECT_TRUE(batch.attention_mask[1][6].item<bool>());
  EXPECT_FALSE(batch.attention_mask[1][7].item<bool>());
  EXPECT_EQ(report_.tokens, 37);
  EXPECT_EQ(report_.padding, 4 * 13 - 37);
  EXPECT_EQ(report_.label_tokens, 3 + 2 + 2 + 5);
}

TEST_F(Collate, AnUnknownTokenIsTextThoughItSharesThePadId) {
  samples_[0].conversations[0].ids[4] = 0;
  const auto batch = collate_all(small_spec());
  EXPECT_TRUE(batch.attention_mask[0][4].item<bool>());
}

TEST_F(Collate, GivesEachTargetItsMaskAtTheImagesSize) {
  const auto batch = collate_all(small_spec());
  ASSERT_EQ(batch.masks.size(), 3U);
  ASSERT_EQ(batch.masks[0].sizes(), (std::vector<std::int64_t>{2, samples_[0].size.height, samples_[0].size.width}));
  EXPECT_EQ(batch.masks[0].sum().item<float>(), 2 * 200);
  EXPECT_EQ(batch.masks[0][0][10][3].item<float>(), 1);
  EXPECT_EQ(batch.masks[0][0][9][3].item<float>(), 0);
  EXPECT_EQ(batch.masks[0][0][10][8].item<float>(), 0);
  EXPECT_EQ(batch.masks[1].sum().item<float>(), 5);
  EXPECT_EQ(batch.masks[2].size(0), 0);
  EXPECT_EQ(batch.masks[2].size(1), samples_[2].size.height);
  EXPECT_EQ(batch.original[2].width, samples_[2].size.width);
}

TEST_F(Collate, MarksIgnoredPixelsForEvaluationAlone) {
  const auto training = collate_all(small_spec());
  const auto evaluation = collate_all(small_spec(), Purpose::evaluation);
  EXPECT_EQ(training.masks[1].sum().item<float>(), 5);
  EXPECT_EQ(evaluation.masks[1].sum().item<float>(), 5 + 255 * 200);
}

TEST_F(Collate, CutsToTheRoomThatTheImageLeaves) {
  auto spec = small_spec();
  spec.model_max_length = 11;  // less 3 for the patches that replace one token
  const auto batch = collate_all(spec);
  EXPECT_EQ(batch.input_ids.size(1), 8);
  EXPECT_EQ(report_.cut_conversations, 2);
  EXPECT_EQ(report_.dropped_targets, 0);  // the [SEG] of nine tokens is the eighth
  EXPECT_EQ(row(batch.input_ids, 3), (std::vector<std::int64_t>{1, 501, -200, 502, 20, 21, 22, 23}));
  EXPECT_EQ(collate_all(spec, Purpose::evaluation).input_ids.size(1), 13);
}

TEST_F(Collate, DropsTheMaskWhoseSegTokenIsCutAway) {
  auto spec = small_spec();
  spec.model_max_length = 10;
  const auto batch = collate_all(spec);
  EXPECT_EQ(batch.input_ids.size(1), 7);
  EXPECT_EQ(report_.dropped_targets, 1);
  EXPECT_EQ(batch.masks[0].size(0), 1);
  EXPECT_EQ(batch.masks[1].size(0), 1);
}

TEST_F(Collate, RefusesALengthThatCutsTheImageOff) {
  auto spec = small_spec();
  spec.model_max_length = 6;  // room for the image and for two tokens before it
  EXPECT_EQ(collate_all(spec).input_ids.size(1), 3);
  for (const std::int64_t length : {5, 3, 1}) {  // less than the image takes, too
    spec.model_max_length = length;
    try {
      collate_all(spec);
      ADD_FAILURE() << length;
    } catch (const RequestError& error) {
      EXPECT_NE(std::string(error.what()).find("--model_max_length"), std::string::npos) << error.what();
    }
    EXPECT_EQ(collate_all(spec, Purpose::evaluation).input_ids.size(1), 13);  // which cuts nothing
  }
}

TEST_F(Collate, FeedsBothTowersAtTheirSizes) {
  const auto batch = collate_all(small_spec());
  EXPECT_EQ(batch.images.sizes(), (std::vector<std::int64_t>{3, 3, 64, 64}));
  EXPECT_EQ(batch.images_clip.sizes(), (std::vector<std::int64_t>{3, 3, 28, 28}));
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(std::max(batch.resize[i].height, batch.resize[i].width), 64);
    EXPECT_LT(std::min(batch.resize[i].height, batch.resize[i].width), 64);
  }
  EXPECT_FALSE(at::equal(batch.images[0], batch.images[2]));
  EXPECT_TRUE(at::equal(batch.images[0], batch.images[1]));
}

TEST_F(Collate, NamesConversationsByTheirSampleNotByTheirPlace) {
  const auto together = collate_all(small_spec());
  CollateReport report;
  const auto alone = collate({samples_[1]}, {200}, file_->header(), small_spec(), Purpose::training, report);
  ASSERT_EQ(together.sample_keys.size(), 4U);
  EXPECT_EQ(alone.sample_keys.at(0), together.sample_keys[2]);
  EXPECT_NE(together.sample_keys[0], together.sample_keys[1]);
}

TEST_F(Collate, RefusesASampleWhoseMasksDoNotFitItsTexts) {
  samples_[2].conversations[0].ids[5] = static_cast<std::int32_t>(kSmallSeg);
  EXPECT_THROW(collate_all(small_spec()), RunError);
}

TEST_F(Collate, NamesTheSampleWhoseImageDoesNotDecode) {
  samples_[2].image.resize(samples_[2].image.size() / 2);
  try {
    collate_all(small_spec());
    ADD_FAILURE() << "half an image was taken";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("sample 2"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace tessera::data
