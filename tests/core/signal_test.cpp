#include "tessera/core/signal.hpp"

#include <gtest/gtest.h>

#include <csignal>

#include "tessera/core/error.hpp"

namespace tessera {
namespace {

TEST(StopSignal, ATerminationIsRememberedAndTheProcessGoesOn) {
  StopSignal stop;
  EXPECT_FALSE(stop.received());
  std::raise(SIGTERM);
  std::raise(SIGUSR1);
  EXPECT_TRUE(stop.received());
  EXPECT_EQ(stop.number(), SIGTERM);
}

TEST(StopSignal, OnlyOneAtATimeAndEachStartsClean) {
  {
    StopSignal stop;
    std::raise(SIGUSR1);
    EXPECT_THROW(StopSignal(), RunError);
  }
  EXPECT_FALSE(StopSignal().received());
}

}  // namespace
}  // namespace tessera
