#include "tessera/core/version.hpp"

#include <gtest/gtest.h>

#include <regex>

namespace tessera {
namespace {

TEST(Version, IsThreeNumbers) {
  EXPECT_TRUE(std::regex_match(version_string(), std::regex(R"(\d+\.\d+\.\d+)"))) << version_string();
}

}  // namespace
}  // namespace tessera
