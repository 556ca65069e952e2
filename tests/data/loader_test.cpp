#include "tessera/data/loader.hpp"

#include <ATen/ops/equal.h>
#include <gtest/gtest.h>

#include <chrono>
#include <set>

#include "data/toy.hpp"
#include "tessera/core/error.hpp"

namespace tessera::data {
namespace {

InputSpec small_spec() {
  InputSpec spec;
  spec.sam_size = 48;
  spec.clip = image::with_size(spec.clip, 28);
  spec.image_patches = 4;
  spec.model_max_length = 1000;
  return spec;
}

/// The prepared folder, made once for all tests of this file.
class LoaderTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    dir_ = std::make_unique<testing_support::TempDir>();
    toy::write_small_set(*dir_ / "data");
    toy::prepare(toy::small_config(*dir_ / "data", *dir_ / "shards"));
    train_ = std::make_unique<Shards>(Shards::open((*dir_ / "shards").string(), "train", {}));
  }
  static void TearDownTestSuite() {
    train_.reset();
    dir_.reset();
  }

  static LoaderConfig config(std::int64_t global_batch = 12) {
    LoaderConfig config;
    config.batch_size = 1;
    config.global_batch_size = global_batch;
    config.workers = 2;
    config.prefetch_mib = 1;
    return config;
  }

  static std::unique_ptr<testing_support::TempDir> dir_;
  static std::unique_ptr<Shards> train_;
};
std::unique_ptr<testing_support::TempDir> LoaderTest::dir_;
std::unique_ptr<Shards> LoaderTest::train_;

void expect_equal(const MicroBatch& a, const MicroBatch& b) {
  EXPECT_EQ(a.index, b.index);
  EXPECT_TRUE(at::equal(a.batch.images, b.batch.images));
  EXPECT_TRUE(at::equal(a.batch.images_clip, b.batch.images_clip));
  EXPECT_TRUE(at::equal(a.batch.input_ids, b.batch.input_ids));
  EXPECT_TRUE(at::equal(a.batch.labels, b.batch.labels));
  EXPECT_TRUE(at::equal(a.batch.attention_mask, b.batch.attention_mask));
  EXPECT_EQ(a.batch.offset, b.batch.offset);
  EXPECT_EQ(a.batch.sample_keys, b.batch.sample_keys);
  ASSERT_EQ(a.batch.masks.size(), b.batch.masks.size());
  for (std::size_t i = 0; i < a.batch.masks.size(); ++i) EXPECT_TRUE(at::equal(a.batch.masks[i], b.batch.masks[i]));
}

TEST_F(LoaderTest, GivesTheSameMicroBatchesOnOneToFourRanks) {
  Loader alone(config(), small_spec(), *train_, 7, 0, 1);
  std::vector<StepBatches> whole;
  for (int step = 0; step < 2; ++step) whole.push_back(alone.next());
  ASSERT_EQ(whole[0].micro.size(), 12U);
  for (const int world : {2, 3, 4}) {
    for (int rank = 0; rank < world; ++rank) {
      Loader loader(config(), small_spec(), *train_, 7, rank, world);
      for (int step = 0; step < 2; ++step) {
        const auto own = loader.next();
        ASSERT_EQ(own.step, step);
        ASSERT_EQ(own.micro.size(), 12U / static_cast<unsigned>(world));
        for (std::size_t i = 0; i < own.micro.size(); ++i) {
          const auto m = i * static_cast<std::size_t>(world) + static_cast<std::size_t>(rank);
          expect_equal(own.micro[i], whole[static_cast<std::size_t>(step)].micro[m]);
        }
      }
    }
  }
}

TEST_F(LoaderTest, GoesOnAtAnyStepOnAnyNumberOfRanks) {
  Loader walked(config(6), small_spec(), *train_, 3, 0, 1);
  for (int step = 0; step < 4; ++step) walked.next();
  const auto fifth = walked.next();
  Loader sent(config(6), small_spec(), *train_, 3, 1, 2);
  sent.next();
  sent.seek(4);
  const auto own = sent.next();
  EXPECT_EQ(own.step, 4);
  ASSERT_EQ(own.micro.size(), 3U);
  for (std::size_t i = 0; i < 3; ++i) expect_equal(own.micro[i], fifth.micro[2 * i + 1]);
  const auto start = std::chrono::steady_clock::now();
  sent.seek(1'000'000'000'000);
  EXPECT_EQ(sent.next().step, 1'000'000'000'000);
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(1));  // nothing is replayed
}

TEST_F(LoaderTest, OtherSeedsGiveOtherSamples) {
  Loader one(config(), small_spec(), *train_, 1, 0, 1);
  Loader two(config(), small_spec(), *train_, 2, 0, 1);
  std::vector<std::int64_t> first;
  std::vector<std::int64_t> second;
  for (std::int64_t m = 0; m < 12; ++m) {
    first.push_back(one.rows_of(0, m).at(0));
    second.push_back(two.rows_of(0, m).at(0));
  }
  EXPECT_NE(first, second);
}

TEST_F(LoaderTest, CountsTokensAndMasksOfTheStepBeforeItRuns) {
  Loader loader(config(), small_spec(), *train_, 7, 0, 1);
  const auto step = loader.next();
  std::int64_t masks = 0;
  std::int64_t labels = 0;
  for (const auto& one : step.micro) {
    for (const auto& planes : one.batch.masks) masks += planes.size(0);
    for (std::int64_t r = 0; r < one.batch.labels.size(0); ++r) {
      for (std::int64_t p = 1; p < one.batch.labels.size(1); ++p)
        labels += one.batch.labels[r][p].item<std::int64_t>() != -100;
    }
    ASSERT_EQ(one.samples.size(), 1U);
    EXPECT_EQ(one.samples[0].source, "reason_seg/ReasonSeg/train");
    EXPECT_FALSE(one.samples[0].questions.at(0).empty());
  }
  EXPECT_GT(masks, 0);
  EXPECT_EQ(step.masks(), masks);
  EXPECT_EQ(step.label_tokens(), labels);
  EXPECT_GT(step.tokens(), labels);
}

TEST_F(LoaderTest, ReadsAheadNoFurtherThanItsMemory) {
  auto small = config(2);
  small.prefetch_mib = 4;
  Loader loader(small, small_spec(), *train_, 7, 0, 1);
  for (int i = 0; i < 10; ++i) loader.next();
  const std::int64_t largest = 8 << 20;  // a step in hand: two photographs of 640 x 480 with up to three masks
  EXPECT_LE(loader.peak_bytes(), (4 << 20) + 2 * largest);
  EXPECT_GE(loader.waited_s(), 0);
}

TEST_F(LoaderTest, RefusesBatchesThatRanksCannotShare) {
  EXPECT_THROW(step_shape(config(12), 0, 5), RequestError);
  EXPECT_THROW(step_shape(config(0), 0, 1), RequestError);
  auto unfit = config(12);
  unfit.batch_size = 5;
  EXPECT_THROW(step_shape(unfit, 0, 1), RequestError);
  try {
    step_shape(config(13), 0, 4);
    ADD_FAILURE();
  } catch (const RequestError& error) {
    EXPECT_NE(std::string(error.what()).find("16"), std::string::npos) << error.what();
  }
  auto accumulated = config();
  accumulated.global_batch_size.reset();
  accumulated.grad_accumulation_steps = 3;
  EXPECT_EQ(step_shape(accumulated, 1, 4).micro_batches, 12);
}

TEST_F(LoaderTest, RefusesFamiliesAndRatesThatDoNotFit) {
  auto other = config();
  other.dataset = "vqa";
  EXPECT_THROW(Loader(other, small_spec(), *train_, 7, 0, 1), RequestError);
  other.dataset = "reason_seg";
  other.sample_rates = "9,3,3,1";
  EXPECT_THROW(Loader(other, small_spec(), *train_, 7, 0, 1), RequestError);
  other.sample_rates = "2";
  EXPECT_NO_THROW(Loader(other, small_spec(), *train_, 7, 0, 1));
}

TEST_F(LoaderTest, EvaluationTakesEachItemOnceOverAllRanks) {
  const auto val = Shards::open((*dir_ / "shards").string(), "val", {});
  for (const int world : {1, 2, 4}) {
    std::multiset<std::string> counted;
    std::set<std::int64_t> calls;
    for (int rank = 0; rank < world; ++rank) {
      EvalLoader loader(small_spec(), val, rank, world, {});
      EXPECT_EQ(loader.items(), 3);
      calls.insert(loader.calls());
      for (std::int64_t i = 0; i < loader.calls(); ++i) {
        const auto item = loader.next();
        EXPECT_EQ(item.batch.images_count(), 1);
        if (item.counted) counted.insert(item.sample.image_name);
      }
      EXPECT_THROW(loader.next(), RunError);
      loader.rewind();
      EXPECT_NO_THROW(loader.next());
    }
    EXPECT_EQ(calls.size(), 1U);
    EXPECT_EQ(counted,
              (std::multiset<std::string>{"reason_seg/ReasonSeg/val/val0.jpg", "reason_seg/ReasonSeg/val/val1.jpg",
                                          "reason_seg/ReasonSeg/val/val2.jpg"}));
  }
}

TEST_F(LoaderTest, WhatFillsUpTheLastRoundCountsAgainWhereTheReferencesCountingIsAskedFor) {
  const auto val = Shards::open((*dir_ / "shards").string(), "val", {});
  std::multiset<std::string> counted;
  for (int rank = 0; rank < 2; ++rank) {
    EvalLoader loader(small_spec(), val, rank, 2, {.count_padding = true});
    for (std::int64_t i = 0; i < loader.calls(); ++i) {
      const auto item = loader.next();
      if (item.counted) counted.insert(item.sample.image_name);
    }
  }
  EXPECT_EQ(counted.size(), 4U);  // of 3
  EXPECT_EQ(counted.count("reason_seg/ReasonSeg/val/val0.jpg"), 2U);
}

TEST_F(LoaderTest, BindsItsSettingsUnderTheReferencesNames) {
  LoaderConfig bound;
  Options options("test", "");
  bind(options, bound);
  options.parse({"--shards", "a,b", "--sample_rates", "9||3||3||1", "--batch_size", "4", "--global_batch_size", "32"});
  EXPECT_EQ(bound.shards, "a,b");
  EXPECT_EQ(bound.sample_rates, "9||3||3||1");
  EXPECT_EQ(step_shape(bound, 0, 8).own(), 1);
}

}  // namespace
}  // namespace tessera::data
