#include "tessera/models/lisa_batch.hpp"

#include <gtest/gtest.h>

namespace tessera::models {
namespace {

TEST(LisaBatch, CountsImagesByItsOffsets) {
  LisaBatch batch;
  batch.offset = {0, 2, 3};
  EXPECT_EQ(batch.images_count(), 2);
  batch.offset = {0};
  EXPECT_EQ(batch.images_count(), 0);
}

}  // namespace
}  // namespace tessera::models
