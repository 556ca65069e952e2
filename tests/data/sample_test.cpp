#include "tessera/data/sample.hpp"

#include <gtest/gtest.h>

#include "tessera/data/shard.hpp"

namespace tessera::data {
namespace {

TEST(Sample, StartsWithoutTargetsAndWithoutAWordOnItsQuestionsLength) {
  const Sample sample;
  EXPECT_TRUE(sample.targets.empty());
  EXPECT_EQ(sample.is_sentence, kSentenceUnknown);  // what shards store for "not said"
}

TEST(Sample, AnItemHasNoIgnoredPixelsUntilOneIsNamed) {
  EXPECT_EQ(ItemSamples{}.ignore_mask, -1);
}

}  // namespace
}  // namespace tessera::data
