#include "tessera/shard/buffer_pool.hpp"

#include <gtest/gtest.h>

#include <cstdlib>

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

TEST(BufferPool, ALargeBlockServesASmallRequestRatherThanGrowBeyondThePeak) {
  BufferPool pool(kCpu);
  pool.take(10000).reset();
  auto small = pool.take(1000);
  EXPECT_EQ(pool.allocated(), 10000);
  EXPECT_EQ(pool.in_use(), 1000);
  auto other = pool.take(1000);  // nothing is free, and 11000 is below what two at once need
  EXPECT_EQ(pool.in_use(), 2000);
}

TEST(BufferPool, ATinyRequestLeavesTheLargeBlockToLargeOnes) {
  BufferPool pool(kCpu);
  pool.take(10000).reset();
  auto tiny = pool.take(100);
  auto large = pool.take(9900);
  EXPECT_EQ(pool.allocated(), 10100);
}

TEST(BufferPool, BlocksThatAreTooSmallGiveWay) {
  BufferPool pool(kCpu);
  pool.take(10000).reset();
  auto larger = pool.take(10004);
  EXPECT_EQ(pool.allocated(), 10004);
  EXPECT_EQ(pool.peak(), 10004);
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

TEST(BufferPool, BlocksComeFromTheGivenAllocatorAndGoBackToIt) {
  int alive = 0;
  {
    BufferPool pool(c10::Device(c10::DeviceType::CPU), [&](std::size_t bytes) {
      ++alive;
      return std::shared_ptr<void>(std::malloc(bytes), [&](void* p) {
        --alive;
        std::free(p);
      });
    });
    auto a = pool.take(1000);
    auto b = pool.take(2000);
    EXPECT_NE(a.data(), nullptr);
    a.reset();
    a = pool.take(1000);  // the same block again
    EXPECT_EQ(alive, 2);
  }
  EXPECT_EQ(alive, 0);
}

}  // namespace
}  // namespace tessera::shard
