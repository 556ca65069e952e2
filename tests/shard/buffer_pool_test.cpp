#include "tessera/shard/buffer_pool.hpp"

#include <gtest/gtest.h>

namespace tessera::shard {
namespace {

const c10::Device kCpu(c10::DeviceType::CPU);

TEST(BufferPool, ABlockThatCameBackIsUsedAgain) {
  BufferPool pool(kCpu);
  void* first = nullptr;
  {
    auto block = pool.take(1000);
    first = block.data();
    EXPECT_EQ(pool.in_use(), 1000);
  }
  EXPECT_EQ(pool.in_use(), 0);
  auto again = pool.take(950);
  EXPECT_EQ(again.data(), first);
  EXPECT_EQ(pool.allocated(), 1000);
}

TEST(BufferPool, ALargeBlockIsNotWastedOnASmallRequest) {
  BufferPool pool(kCpu);
  pool.take(10000).reset();
  auto small = pool.take(100);
  EXPECT_EQ(pool.allocated(), 10100);
}

TEST(BufferPool, ThePeakCountsWhatIsOnLoanAtOnce) {
  BufferPool pool(kCpu);
  auto a = pool.take(100);
  auto b = pool.take(200);
  a.reset();
  auto c = pool.take(50);
  EXPECT_EQ(pool.peak(), 300);
  pool.reset_peak();
  EXPECT_EQ(pool.peak(), pool.in_use());
}

TEST(BufferPool, BlocksMayOutliveThePool) {
  BufferPool::Block block;
  {
    BufferPool pool(kCpu);
    block = pool.take(64);
  }
  static_cast<char*>(block.data())[63] = 1;
  block.reset();
}

}  // namespace
}  // namespace tessera::shard
