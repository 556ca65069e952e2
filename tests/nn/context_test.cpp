#include "tessera/nn/context.hpp"

#include <gtest/gtest.h>

namespace tessera::nn {
namespace {

TEST(ForwardContext, IsNotTrainingUnlessTold) {
  EXPECT_FALSE(ForwardContext{}.training);
  EXPECT_TRUE(ForwardContext{}.sample_keys.empty());
}

}  // namespace
}  // namespace tessera::nn
