#include "comm/mpi_engine.hpp"

#include <algorithm>
#include <chrono>

#include "comm/backoff.hpp"
#include "tessera/core/error.hpp"

namespace tessera::comm {

MpiEngine::MpiEngine(const MpiOptions& options) : options_(options) {
  if (options.max_message_bytes < 8 || options.max_message_bytes > (std::int64_t{1} << 30)) {
    throw RunError("comm: max_message_bytes {} is not in 8 to 2^30", options.max_message_bytes);
  }
  if (options.segment_bytes < 8) throw RunError("comm: segment_bytes {} is below 8", options.segment_bytes);
  if (options.progress_thread) thread_ = std::thread([this] { thread_main(); });
}

MpiEngine::~MpiEngine() {
  stop();
}

void MpiEngine::stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

Step MpiEngine::advance_all() {
  if (!failure_.empty()) throw CommError("{}", failure_);
  Step most = Step::idle;
  try {
    for (std::size_t i = 0; i < active_.size(); ++i) {
      MpiOp& op = *active_[i];
      const Step step = op.advance();
      op.done = step == Step::done;
      most = std::max(most, step);
    }
  } catch (const std::exception& error) {
    failure_ = error.what();
    throw;
  }
  if (most == Step::done) std::erase_if(active_, [](const auto& op) { return op->done; });
  return most;
}

std::shared_ptr<MpiOp> MpiEngine::start(const std::function<std::shared_ptr<MpiOp>()>& make) {
  std::shared_ptr<MpiOp> op;
  {
    const std::lock_guard lock(mutex_);
    if (!failure_.empty()) throw CommError("{}", failure_);
    try {
      op = make();
    } catch (const std::exception& error) {
      failure_ = error.what();
      throw;
    }
    active_.push_back(op);
    advance_all();
  }
  if (thread_.joinable()) changed_.notify_all();
  return op;
}

Step MpiEngine::test(MpiOp& op) {
  const std::lock_guard lock(mutex_);
  if (op.done) return Step::done;
  const Step most = advance_all();
  return op.done ? Step::done : std::min(most, Step::moved);
}

/// One look at MPI takes in only part of what has arrived, so it looks until nothing comes a few times in a row.
void MpiEngine::progress() {
  constexpr int kIdleLooks = 4;
  const std::lock_guard lock(mutex_);
  for (int idle = 0; idle < kIdleLooks && !active_.empty();) {
    idle = advance_all() == Step::idle ? idle + 1 : 0;
  }
}

void MpiEngine::wait(MpiOp& op) {
  if (thread_.joinable()) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return op.done || !failure_.empty() || stopping_; });
    if (op.done) return;
    if (!failure_.empty()) throw CommError("{}", failure_);
  }
  Backoff backoff;
  for (Step step = test(op); step != Step::done; step = test(op)) {
    step == Step::moved ? backoff.reset() : backoff.pause();
  }
}

void MpiEngine::locked(const std::function<void()>& calls) {
  const std::lock_guard lock(mutex_);
  calls();
}

bool MpiEngine::try_locked(std::chrono::milliseconds patience, const std::function<void()>& calls) {
  const std::unique_lock lock(mutex_, patience);
  if (!lock.owns_lock()) return false;
  calls();
  return true;
}

void MpiEngine::thread_main() {
  Backoff backoff;
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    if (active_.empty() || !failure_.empty()) {
      changed_.wait(lock);
      backoff.reset();
      continue;
    }
    Step step = Step::done;
    try {
      step = advance_all();
    } catch (const std::exception&) {  // kept in failure_; whoever waits throws it
    }
    lock.unlock();
    if (step == Step::done) changed_.notify_all();
    step == Step::idle ? backoff.pause() : backoff.reset();
    lock.lock();
  }
}

}  // namespace tessera::comm
