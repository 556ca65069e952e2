#pragma once
#include <ATen/core/Tensor.h>
#include <gtest/gtest.h>

namespace tessera::testing_support {

/// The largest absolute difference, as a double; infinite when the shapes differ.
inline double distance(const at::Tensor& a, const at::Tensor& b) {
  if (a.sizes() != b.sizes()) return INFINITY;
  if (a.numel() == 0) return 0;
  return a.to(at::kDouble).sub(b.to(at::kDouble)).abs().max().item<double>();
}

}  // namespace tessera::testing_support
