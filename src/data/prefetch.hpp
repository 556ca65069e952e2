#pragma once
// Prefetch: values 0, 1, 2, … of a pure function, made ahead by background threads and taken in order.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "tessera/core/error.hpp"

namespace tessera::data {

template <class T>
class Prefetch {
 public:
  struct Limits {
    int workers = 1;
    std::int64_t bytes = 0;  ///< of values made and not yet taken, beyond those that take() waits for
    std::int64_t end = -1;   ///< one past the last value; -1: endless
  };
  /// `make` runs in the background threads, several at a time; `cost` gives a value's bytes beforehand.
  Prefetch(Limits limits, std::function<T(std::int64_t)> make, std::function<std::int64_t(std::int64_t)> cost)
      : limits_(limits), make_(std::move(make)), cost_(std::move(cost)) {
    for (int i = 0; i < std::max(1, limits_.workers); ++i) threads_.emplace_back([this](std::stop_token) { work(); });
  }

  ~Prefetch() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    changed_.notify_all();
  }  // the threads join as they are destroyed, first of all members

  /// The next `count` values. Rethrows what making one of them threw; the next call goes on with the same values.
  /// Throws RunError beyond the end.
  std::vector<T> take(std::int64_t count) {
    const auto started = std::chrono::steady_clock::now();
    std::unique_lock lock(mutex_);
    if (limits_.end >= 0 && taken_ + count > limits_.end) {
      throw RunError("value {} was asked for, there are {}", taken_ + count - 1, limits_.end);
    }
    wanted_ = taken_ + count;
    changed_.notify_all();
    std::vector<T> values;
    changed_.wait(lock, [&] { return ready(count); });
    waited_s_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
    for (std::int64_t i = taken_; i < taken_ + count; ++i) {
      if (const auto error = done_.at(i).error) {
        restart(taken_);
        std::rethrow_exception(error);
      }
    }
    for (std::int64_t i = taken_; i < taken_ + count; ++i) {
      auto node = done_.extract(i);
      held_ -= node.mapped().bytes;
      values.push_back(std::move(*node.mapped().value));
    }
    taken_ += count;
    changed_.notify_all();
    return values;
  }

  /// The next take() begins at `index`. What was made for later is thrown away.
  void seek(std::int64_t index) {
    const std::lock_guard lock(mutex_);
    restart(index);
    changed_.notify_all();
  }

  double waited_s() const {
    const std::lock_guard lock(mutex_);
    return waited_s_;
  }
  /// The most bytes that were held at once, by the estimate of `cost`.
  std::int64_t peak_bytes() const {
    const std::lock_guard lock(mutex_);
    return peak_;
  }

 private:
  struct Done {
    std::optional<T> value;
    std::exception_ptr error;
    std::int64_t bytes = 0;
  };

  bool ready(std::int64_t count) const {
    for (std::int64_t i = taken_; i < taken_ + count; ++i) {
      if (!done_.contains(i)) return false;
    }
    return true;
  }

  void restart(std::int64_t index) {
    done_.clear();
    ++round_;  // what is being made now belongs to the past
    held_ = 0;
    taken_ = next_ = wanted_ = index;
  }

  /// Whether value next_ may be begun: it is waited for, or memory is left for it.
  bool may_begin() const {
    if (limits_.end >= 0 && next_ >= limits_.end) return false;
    return next_ < wanted_ || held_ + cost_(next_) <= limits_.bytes;
  }

  void work() {
    std::unique_lock lock(mutex_);
    for (;;) {
      changed_.wait(lock, [&] { return stopping_ || may_begin(); });
      if (stopping_) return;
      const auto index = next_++;
      const auto round = round_;
      Done done;
      done.bytes = cost_(index);
      held_ += done.bytes;
      peak_ = std::max(peak_, held_);
      lock.unlock();
      try {
        done.value.emplace(make_(index));
      } catch (...) {
        done.error = std::current_exception();
      }
      lock.lock();
      if (round == round_) {
        done_.emplace(index, std::move(done));
        changed_.notify_all();
      }
    }
  }

  Limits limits_;
  std::function<T(std::int64_t)> make_;
  std::function<std::int64_t(std::int64_t)> cost_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::int64_t, Done> done_;
  std::int64_t taken_ = 0;
  std::int64_t next_ = 0;
  std::int64_t wanted_ = 0;
  std::int64_t round_ = 0;
  std::int64_t held_ = 0;
  std::int64_t peak_ = 0;
  double waited_s_ = 0;
  bool stopping_ = false;
  std::vector<std::jthread> threads_;
};

}  // namespace tessera::data
