#include "tessera/models/llava_batch.hpp"

#include <gtest/gtest.h>

namespace tessera::models {
namespace {

TEST(LlavaBatch, IsTheOriginalFormUnlessTold) {
  const LlavaBatch batch;
  EXPECT_FALSE(batch.expanded);
  EXPECT_FALSE(batch.labels.defined());
  EXPECT_TRUE(batch.sample_keys.empty());
}

}  // namespace
}  // namespace tessera::models
