#pragma once
/// Time: a stopwatch that never runs backwards, and times and sizes as people read them.
#include <chrono>
#include <cstdint>
#include <string>

namespace tessera {

class Stopwatch {
 public:
  double seconds() const noexcept { return std::chrono::duration<double>(Clock::now() - start_).count(); }
  /// Seconds since it was made or last restarted; starts anew.
  double restart() noexcept {
    const auto now = Clock::now();
    const double passed = std::chrono::duration<double>(now - start_).count();
    start_ = now;
    return passed;
  }

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point start_ = Clock::now();
};

/// "0:07", "12:34", "1:02:03", "2d 03:04:05"; "?" for what is negative or not finite.
std::string duration_text(double seconds);
/// "512 B", "1.5 KiB", "23.4 GiB".
std::string bytes_text(std::int64_t bytes);
/// "2026-01-31T23:59:59Z" of seconds since 1970.
std::string utc_text(std::int64_t unix_seconds);
std::string utc_now();

}  // namespace tessera
