#include "tessera/core/memory.hpp"

#include <gtest/gtest.h>

#include <vector>

namespace tessera {
namespace {

TEST(Memory, ThePeakGrowsWithWhatIsTouchedAndStays) {
  const auto before = peak_memory_bytes();
  EXPECT_GT(before, 0);
  { std::vector<char> block(64 << 20, 1); EXPECT_EQ(block.back(), 1); }
  EXPECT_GE(peak_memory_bytes(), before + (48 << 20));
}

TEST(Memory, TheMachineHasSomeLeft) { EXPECT_GT(available_memory_bytes(), 1 << 20); }

}  // namespace
}  // namespace tessera
