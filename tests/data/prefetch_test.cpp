#include "data/prefetch.hpp"

#include <gtest/gtest.h>

#include <stdexcept>

namespace tessera::data {
namespace {

Prefetch<std::int64_t> squares(int workers, std::int64_t bytes, std::int64_t end = -1) {
  return {{.workers = workers, .bytes = bytes, .end = end},
          [](std::int64_t i) { return i * i; },
          [](std::int64_t) { return 10; }};
}

TEST(Prefetch, GivesValuesInOrderWhateverTheNumberOfThreads) {
  for (const int workers : {1, 2, 5}) {
    auto ahead = squares(workers, 70);
    for (std::int64_t i = 0; i < 200; i += 2) {
      const auto values = ahead.take(2);
      ASSERT_EQ(values, (std::vector<std::int64_t>{i * i, (i + 1) * (i + 1)}));
    }
  }
}

TEST(Prefetch, GoesOnWhereItIsSent) {
  auto ahead = squares(3, 1000);
  EXPECT_EQ(ahead.take(1).front(), 0);
  ahead.seek(1'000'000'000);
  EXPECT_EQ(ahead.take(1).front(), 1'000'000'000'000'000'000);
  ahead.seek(4);
  EXPECT_EQ(ahead.take(2), (std::vector<std::int64_t>{16, 25}));
}

TEST(Prefetch, HoldsNoMoreThanItsBound) {
  auto ahead = squares(4, 45);
  for (int i = 0; i < 50; ++i) ahead.take(1);
  // Four values of 10 bytes ahead, and the one that is waited for.
  EXPECT_LE(ahead.peak_bytes(), 50);
}

TEST(Prefetch, MakesWhatIsWaitedForThoughNoMemoryIsLeft) {
  auto ahead = squares(2, 0);
  EXPECT_EQ(ahead.take(3), (std::vector<std::int64_t>{0, 1, 4}));
}

TEST(Prefetch, StopsAtTheEnd) {
  auto ahead = squares(2, 1000, 5);
  EXPECT_EQ(ahead.take(5).back(), 16);
  EXPECT_THROW(ahead.take(1), RunError);
}

TEST(Prefetch, PassesErrorsToWhoTakesAndCanGoOn) {
  std::atomic<bool> broken = true;
  Prefetch<int> ahead(
      {.workers = 2, .bytes = 100},
      [&](std::int64_t i) {
        if (i == 3 && broken) throw std::runtime_error("value 3");
        return static_cast<int>(i);
      },
      [](std::int64_t) { return 1; });
  EXPECT_EQ(ahead.take(3).back(), 2);
  EXPECT_THROW(ahead.take(1), std::runtime_error);
  EXPECT_THROW(ahead.take(1), std::runtime_error);
  broken = false;
  EXPECT_EQ(ahead.take(2), (std::vector<int>{3, 4}));
}

}  // namespace
}  // namespace tessera::data
