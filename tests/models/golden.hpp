#pragma once
// Goldens of tests/golden/models: model folders with recorded inputs and what the public packages computed from them.
#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <string_view>

#include "tessera/io/tensor_file.hpp"

namespace tessera::testing_support {

inline constexpr double kGoldenRtol = 1e-4;
inline constexpr double kGoldenAtol = 1e-5;

inline std::filesystem::path golden_model(std::string_view name) {
  return std::filesystem::path(TESSERA_SOURCE_DIR) / "tests/golden/models/data" / name;
}

/// |found - wanted| <= atol + rtol |wanted| everywhere, shapes equal; the message names the worst element.
testing::AssertionResult close(const at::Tensor& found, const at::Tensor& wanted, double rtol = kGoldenRtol,
                               double atol = kGoldenAtol);

/// Every tensor of `wanted` whose name begins with none of `skip` must be in `found` and close. Returns how many were
/// compared.
int expect_all_close(const io::TensorMap& found, const io::TensorMap& wanted,
                     std::initializer_list<std::string_view> skip = {});

}  // namespace tessera::testing_support
