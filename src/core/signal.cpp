#include "tessera/core/signal.hpp"

#include <array>
#include <atomic>
#include <csignal>

#include "tessera/core/error.hpp"

namespace tessera {

namespace {

// A handler sees nothing but statics; these are its whole state.
std::atomic<int> first_signal{0};
std::atomic<bool> in_use{false};
constexpr std::array<int, 3> kSignals{SIGTERM, SIGINT, SIGUSR1};
std::array<struct sigaction, 3> former{};

void remember(int number) {
  int none = 0;
  if (!first_signal.compare_exchange_strong(none, number) && number == SIGINT) {
    std::signal(SIGINT, SIG_DFL);
    std::raise(SIGINT);
  }
}

}  // namespace

StopSignal::StopSignal() {
  if (in_use.exchange(true)) throw RunError("signals are watched already");
  first_signal = 0;
  struct sigaction action {};
  action.sa_handler = remember;
  action.sa_flags = SA_RESTART;  // reads and writes under way go on
  sigemptyset(&action.sa_mask);
  for (std::size_t i = 0; i < kSignals.size(); ++i) sigaction(kSignals[i], &action, &former[i]);
}

StopSignal::~StopSignal() {
  for (std::size_t i = 0; i < kSignals.size(); ++i) sigaction(kSignals[i], &former[i], nullptr);
  in_use = false;
}

bool StopSignal::received() const noexcept {
  return first_signal != 0;
}
int StopSignal::number() const noexcept {
  return first_signal;
}

}  // namespace tessera
