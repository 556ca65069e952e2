#pragma once
// Time spent in LibTorch's operations, from its own records of their begin and end.
#include <map>
#include <string>

namespace tessera::bench {

struct OpTimesResult {
  double products = 0;   ///< s, matrix products, attention's own not counted
  double attention = 0;  ///< s, the fused attention kernels
  /// By operation: seconds in it itself, without the operations it calls, and how often.
  std::map<std::string, std::pair<double, long>> own;
};

/// Records all operations of this thread from construction to stop(). On a GPU these are the times of the host.
class OpTimes {
 public:
  OpTimes();
  ~OpTimes();
  OpTimes(const OpTimes&) = delete;
  OpTimes& operator=(const OpTimes&) = delete;
  OpTimesResult stop();

 private:
  bool running_ = true;
  unsigned long handle_;
};

/// The operations that took longest, and what was spent outside all of them.
void print_top(const OpTimesResult& times, double step_seconds);

}  // namespace tessera::bench
