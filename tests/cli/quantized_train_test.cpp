// `tessera train` on a quantised base, from the outside.
#include <gtest/gtest.h>

#include "cli/toy_run.hpp"

namespace tessera {
namespace {

using testing_support::ToyRun;

struct QuantizedTrain : testing::Test {
  static void SetUpTestSuite() { toy = new ToyRun(); }
  static void TearDownTestSuite() { delete toy; }
  static void expect_ok(const testing_support::RunResult& r) { ASSERT_EQ(r.status, 0) << r.output; }
  inline static ToyRun* toy = nullptr;
};

const std::string kLora = "--lora_r 4 --max_steps 4 --no_eval ";

TEST_F(QuantizedTrain, QloraHasTheSameLossesOnOneToThreeRanksAndAfterAResume) {
  const std::string flags = kLora + "--load_in_4bit --placement world --keep_mib 0 ";
  for (int ranks = 1; ranks <= 3; ++ranks) {
    expect_ok(toy->train(ranks, "nf4_" + std::to_string(ranks), flags + "--export_merged false --save_steps 2"));
  }
  expect_ok(toy->train(2, "nf4_again", flags + "--export_merged false --save_steps 2 --max_steps 2"));
  expect_ok(toy->train(1, "nf4_again", flags + "--export_merged false --save_steps 2"));
  for (const char* key : {"loss", "ce_loss", "mask_loss", "grad_norm"}) {
    const auto one = toy->metric("nf4_1", key);
    ASSERT_EQ(one.size(), 4U);
    EXPECT_EQ(one, toy->metric("nf4_2", key)) << key;
    EXPECT_EQ(one, toy->metric("nf4_3", key)) << key;
    EXPECT_EQ(one, toy->metric("nf4_again", key)) << key;
  }
  expect_ok(toy->train(2, "plain", kLora + "--placement world --keep_mib 0 --export_merged false"));
  EXPECT_NE(toy->metric("nf4_1", "loss"), toy->metric("plain", "loss"));
  EXPECT_LT(toy->metric("nf4_2", "bytes_gathered").at(3), toy->metric("plain", "bytes_gathered").at(3));
}

TEST_F(QuantizedTrain, Int8HasTheSameLossesOnOneToThreeRanksAndKeepsItsThreshold) {
  const std::string flags = "--lora_r 4 --no_eval --load_in_8bit --export_merged false --save_steps 1 ";
  const std::string own = flags + "--max_steps 2 --llm_int8_threshold 1.5 ";
  for (int ranks = 1; ranks <= 3; ++ranks) expect_ok(toy->train(ranks, "int8_" + std::to_string(ranks), own));
  expect_ok(toy->train(2, "int8_six", flags + "--max_steps 2"));
  for (const char* key : {"loss", "grad_norm"}) {
    const auto one = toy->metric("int8_1", key);
    ASSERT_EQ(one.size(), 2U);
    EXPECT_EQ(one, toy->metric("int8_2", key)) << key;
    EXPECT_EQ(one, toy->metric("int8_3", key)) << key;
    EXPECT_NE(one, toy->metric("int8_six", key)) << key;
  }
  const auto other = toy->train(1, "int8_1", flags + "--max_steps 3");
  EXPECT_EQ(other.status, 2) << other.output;
  EXPECT_NE(other.output.find("--llm_int8_threshold 1.5, this run has 6"), std::string::npos) << other.output;
}

TEST_F(QuantizedTrain, AMergedExportHoldsTheExpandedValues) {
  const auto run = toy->train(2, "int8", kLora + "--bits 8");
  expect_ok(run);
  EXPECT_NE(run.output.find("matrices in int8"), std::string::npos) << run.output;
  EXPECT_NE(run.output.find("a merged export will hold the values"), std::string::npos) << run.output;
}

TEST_F(QuantizedTrain, FullTrainingIsRefused) {
  const auto run = toy->train(2, "full", "--train_scope full --lora_r 0 --max_steps 2 --quantize nf4");
  EXPECT_EQ(run.status, 2) << run.output;
  EXPECT_NE(run.output.find("--quantize nf4: every weight that could be quantised trains"), std::string::npos)
      << run.output;
}

}  // namespace
}  // namespace tessera
