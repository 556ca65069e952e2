#include "tessera/train/iou.hpp"

#include <gtest/gtest.h>

#include <array>

#include "tessera/core/error.hpp"

namespace tessera::train {
namespace {

TEST(IouSum, IgnoredPixelsTakeNoPart) {
  IouSum sum;
  const std::array<float, 4> logits{1, 1, -1, 1};
  const std::array<float, 4> target{1, 0, 1, 255};
  sum.add(logits, target);  // intersection 1, union 3
  EXPECT_NEAR(sum.ciou(), 1.0 / 3, 1e-9);
  EXPECT_NEAR(sum.giou(), 1.0 / 3, 1e-4);
}

TEST(IouSum, AnEmptyTargetMetByAnEmptyPredictionCountsOne) {
  IouSum sum;
  const std::array<float, 2> logits{-1, -1};
  const std::array<float, 2> target{0, 0};
  sum.add(logits, target);
  EXPECT_NEAR(sum.giou(), 1.0, 1e-4);
  EXPECT_EQ(sum.ciou(), 0.0);
}

TEST(IouSum, GiouIsAMeanOverMasksAndCiouOverPixels) {
  IouSum sum;
  sum.add_counts(1, 2);
  sum.add_counts(300, 400);
  EXPECT_NEAR(sum.giou(), 0.625, 1e-4);
  EXPECT_NEAR(sum.ciou(), 301.0 / 402, 1e-9);
}

TEST(IouSum, SumsBeyondTwentyFourBitsKeepEveryPixel) {
  IouSum sum;
  sum.add_counts(1 << 24, 1 << 25);
  sum.add_counts(1, 1);  // fp32 sums would lose this one
  EXPECT_EQ(sum.ciou(), (16777216.0 + 1) / (33554432.0 + 1 + 1e-10));
}

TEST(IouSum, MasksOfAnotherSizeAreRefused) {
  IouSum sum;
  const std::array<float, 2> logits{1, 1};
  const std::array<float, 1> target{1};
  EXPECT_THROW(sum.add(logits, target), RunError);
}

}  // namespace
}  // namespace tessera::train
