#pragma once
#include <sched.h>

#include <algorithm>
#include <chrono>
#include <thread>

namespace tessera::comm {

/// How a wait spends its time: it spins briefly, then yields the core, then sleeps about an eighth of what it has
/// waited so far, up to 200 us. Short waits stay short, and a rank that waits long leaves its core to the one it waits
/// for.
class Backoff {
 public:
  void pause() {
    using namespace std::chrono;
    if (++rounds_ <= kSpins) return;
    const auto now = steady_clock::now();
    if (rounds_ == kSpins + 1) begin_ = now;
    const auto waited = duration_cast<microseconds>(now - begin_);
    if (waited < kYielding) {
      sched_yield();
    } else {
      std::this_thread::sleep_for(std::min<microseconds>(waited / 8, kLongest));
    }
  }
  void reset() { rounds_ = 0; }

 private:
  static constexpr int kSpins = 50;
  static constexpr std::chrono::microseconds kYielding{200};
  static constexpr std::chrono::microseconds kLongest{200};
  int rounds_ = 0;
  std::chrono::steady_clock::time_point begin_;
};

}  // namespace tessera::comm
