#include "tessera/nn/upload.hpp"

#include <ATen/ops/arange.h>
#include <gtest/gtest.h>

namespace tessera::nn {
namespace {

TEST(Upload, WhatIsThereAlreadyIsShared) {
  const at::Tensor t = at::arange(5, at::kLong);
  EXPECT_TRUE(upload(t, t.device()).is_same(t));
}

TEST(Upload, KeepsShapeAndTypeOnTheOtherDevice) {
  const at::Tensor moved = upload(at::arange(6, at::kLong).view({2, 3}), c10::Device(c10::DeviceType::Meta));
  EXPECT_EQ(moved.device().type(), c10::DeviceType::Meta);
  EXPECT_EQ(moved.sizes(), (std::vector<std::int64_t>{2, 3}));
  EXPECT_EQ(moved.scalar_type(), at::kLong);
}

}  // namespace
}  // namespace tessera::nn
