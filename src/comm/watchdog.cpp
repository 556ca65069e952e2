#include "tessera/comm/watchdog.hpp"

#include <fmt/format.h>
#include <mpi.h>

#include <algorithm>
#include <condition_variable>
#include <exception>
#include <list>
#include <map>
#include <mutex>
#include <thread>
#include <vector>

#include "comm/mpi_check.hpp"
#include "comm/mpi_engine.hpp"
#include "tessera/comm/flight.hpp"
#include "tessera/comm/mpi_env.hpp"
#include "tessera/core/error.hpp"

namespace tessera::comm {
namespace {

using Clock = FlightEntry::Clock;
constexpr int kQuestion = 1;  // tags; a question is empty, an answer is a text
constexpr int kAnswer = 2;
// The first letter of an answer: is the rank over its own limit?
constexpr char kOver = '!';
constexpr char kWithin = '.';

double seconds(Clock::duration span) {
  return std::chrono::duration<double>(span).count();
}

}  // namespace

class Watchdog::Impl {
 public:
  Impl(MpiEnv& env, const WatchdogOptions& options, OnHang on_hang)
      : env_(env), options_(options), on_hang_(std::move(on_hang)) {
    if (!(options.limit.count() > 0) || !(options.answer_limit.count() > 0)) {
      throw RunError("watchdog: limits of {} s and {} s, both must be positive", options.limit.count(),
                     options.answer_limit.count());
    }
    env.engine()->locked([&] {
      check_mpi(MPI_Comm_dup(MPI_COMM_WORLD, &comm_), env.rank(), env.size(), "watchdog", "MPI_Comm_dup");
      MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN);
    });
    phase_since_ = resumed_ = Clock::now();
    thread_ = std::thread([this] { run(); });
  }

  ~Impl() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    wake_.notify_all();
    thread_.join();
    // The communicator is left to MPI's end: freeing it would be collective, and the ranks stop at different times.
  }

  void set_phase(std::string phase) {
    const std::lock_guard lock(mutex_);
    phase_ = std::move(phase);
    phase_since_ = Clock::now();
  }

  void pause(int change) {
    const std::lock_guard lock(mutex_);
    pauses_ += change;
    if (pauses_ == 0) resumed_ = Clock::now();
  }

 private:
  void run() {
    const auto tick = std::clamp<Clock::duration>(std::chrono::duration_cast<Clock::duration>(options_.limit / 10),
                                                  std::chrono::milliseconds(5), std::chrono::milliseconds(500));
    std::unique_lock lock(mutex_);
    bool spoken = false;
    while (!stopping_) {
      wake_.wait_for(lock, tick, [this] { return stopping_; });
      if (stopping_) break;
      lock.unlock();
      try {
        serve();
        if (!spoken && over_limit()) {
          spoken = true;
          speak();
        }
      } catch (const std::exception&) {  // MPI failed under us: whoever waits in a collective reports it
      }
      lock.lock();
    }
  }

  /// Runs MPI calls unless another thread has been inside MPI for too long.
  bool with_mpi(const std::function<void()>& calls) {
    return env_.engine()->try_locked(std::chrono::milliseconds(500), calls);
  }

  /// How long the oldest collective has been unfinished under a running limit; 0 if none is.
  double waited() {
    const auto oldest = env_.flight()->oldest_running();
    const std::lock_guard lock(mutex_);
    if (!oldest || pauses_ > 0) return 0;
    return seconds(Clock::now() - std::max(oldest->started, resumed_));
  }
  bool over_limit() { return waited() > options_.limit.count(); }

  std::string status() {
    const auto now = Clock::now();
    const auto oldest = env_.flight()->oldest_running();
    const auto last = env_.flight()->last_finished();
    std::string text;
    {
      const std::lock_guard lock(mutex_);
      if (!phase_.empty()) text += fmt::format("in '{}' for {:.1f} s, ", phase_, seconds(now - phase_since_));
      if (pauses_ > 0) text += "limit paused, ";
    }
    text += oldest ? fmt::format("waits {:.1f} s for {}", seconds(now - oldest->started), describe(*oldest))
                   : std::string("nothing unfinished");
    if (last) text += fmt::format("; finished {}, {:.1f} s ago", describe(*last), seconds(now - last->finished));
    return text;
  }

  /// Answers whoever asks, and takes answers to our own question.
  void serve() {
    const char mark = over_limit() ? kOver : kWithin;
    with_mpi([&] {
      for (MPI_Status found; probe(kQuestion, found);) {
        take(found, kQuestion);
        post(mark + status(), found.MPI_SOURCE, kAnswer);
      }
      for (MPI_Status found; probe(kAnswer, found);) answers_[found.MPI_SOURCE] = take(found, kAnswer);
      outbox_.remove_if([&](Letter& letter) {
        int sent = 0;
        check(MPI_Test(&letter.request, &sent, MPI_STATUS_IGNORE), "MPI_Test");
        return sent != 0;
      });
    });
  }

  /// True once `stop` is, or the time is over.
  template <class F>
  bool serve_until(F&& stop) {
    const auto end = Clock::now() + std::chrono::duration_cast<Clock::duration>(options_.answer_limit);
    std::unique_lock lock(mutex_);
    while (!stopping_ && Clock::now() < end) {
      lock.unlock();
      serve();
      if (stop()) return true;
      lock.lock();
      wake_.wait_for(lock, std::chrono::milliseconds(5), [this] { return stopping_; });
    }
    return false;
  }

  void speak() {
    const auto oldest = env_.flight()->oldest_running();
    if (!oldest) return;
    std::string report = fmt::format("watchdog: rank {} has waited {:.1f} s for {}", env_.rank(),
                                     seconds(Clock::now() - oldest->started), describe(*oldest));
    answers_.clear();
    const bool asked = with_mpi([&] {
      for (int r = 0; r < env_.size(); ++r) {
        if (r != env_.rank()) post("", r, kQuestion);
      }
    });
    if (asked) serve_until([&] { return answers_.size() + 1 == static_cast<std::size_t>(env_.size()); });
    answers_[env_.rank()] = kOver + status();
    bool lower_speaks = false;
    for (int r = 0; r < env_.size(); ++r) {
      const auto answer = answers_.find(r);
      if (answer == answers_.end()) {
        report += fmt::format("\n  rank {}: {}", r,
                              asked ? "does not answer: dead, stopped, or inside a library call that does not return"
                                    : "not asked: this rank is inside an MPI call that does not return");
        continue;
      }
      report += fmt::format("\n  rank {}: {}", r, answer->second.substr(1));
      lower_speaks = lower_speaks || (r < env_.rank() && answer->second.front() == kOver);
    }
    if (lower_speaks && serve_until([&] { return !over_limit(); })) return;  // it went on after all
    {
      const std::lock_guard lock(mutex_);
      if (stopping_) return;
    }
    on_hang_(report);
  }

  // --- letters between watchdogs; called with the engine's lock held ---
  struct Letter {
    std::string text;
    MPI_Request request = MPI_REQUEST_NULL;
  };

  void check(int code, const char* call) const { check_mpi(code, env_.rank(), env_.size(), "watchdog", call); }

  bool probe(int tag, MPI_Status& found) {
    int there = 0;
    check(MPI_Iprobe(MPI_ANY_SOURCE, tag, comm_, &there, &found), "MPI_Iprobe");
    return there != 0;
  }

  std::string take(const MPI_Status& found, int tag) {
    int count = 0;
    check(MPI_Get_count(&found, MPI_BYTE, &count), "MPI_Get_count");
    std::string text(static_cast<std::size_t>(count), '\0');
    check(MPI_Recv(text.data(), count, MPI_BYTE, found.MPI_SOURCE, tag, comm_, MPI_STATUS_IGNORE), "MPI_Recv");
    return text;
  }

  void post(std::string text, int rank, int tag) {
    Letter& letter = outbox_.emplace_back(Letter{std::move(text)});
    check(MPI_Isend(letter.text.data(), static_cast<int>(letter.text.size()), MPI_BYTE, rank, tag, comm_,
                    &letter.request),
          "MPI_Isend");
  }

  MpiEnv& env_;
  WatchdogOptions options_;
  OnHang on_hang_;
  MPI_Comm comm_ = MPI_COMM_NULL;
  std::list<Letter> outbox_;
  std::map<int, std::string> answers_;

  std::mutex mutex_;  // what follows
  std::condition_variable wake_;
  bool stopping_ = false;
  int pauses_ = 0;
  std::string phase_;
  Clock::time_point phase_since_;
  Clock::time_point resumed_;
  std::thread thread_;
};

Watchdog::Watchdog(MpiEnv& env, const WatchdogOptions& options, OnHang on_hang)
    : impl_(std::make_unique<Impl>(env, options, std::move(on_hang))) {}
Watchdog::~Watchdog() = default;
void Watchdog::set_phase(std::string phase) {
  impl_->set_phase(std::move(phase));
}
Watchdog::Pause::Pause(Watchdog& dog) : dog_(dog) {
  dog_.impl_->pause(1);
}
Watchdog::Pause::~Pause() {
  dog_.impl_->pause(-1);
}

}  // namespace tessera::comm
