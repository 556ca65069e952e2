#pragma once
/// The engine drives every MPI collective in flight of this process, whichever communicator started it. All of them
/// advance in every wait: otherwise a rank that waits for A would keep another, which waits for B first, waiting
/// forever.
#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "tessera/comm/mpi_env.hpp"

namespace tessera::comm {

enum class Step { idle, moved, done };

/// A collective as a machine of steps. All members are called with the engine's lock held.
class MpiOp {
 public:
  virtual ~MpiOp() = default;
  /// Posts what can be posted and takes what has arrived. Never blocks; not called again once done. Throws CommError.
  virtual Step advance() = 0;
  bool done = false;
};

class MpiEngine {
 public:
  explicit MpiEngine(const MpiOptions& options);
  ~MpiEngine();
  MpiEngine(const MpiEngine&) = delete;
  MpiEngine& operator=(const MpiEngine&) = delete;

  const MpiOptions& options() const noexcept { return options_; }

  /// Makes an operation under the lock, advances it once and drives it from then on.
  std::shared_ptr<MpiOp> start(const std::function<std::shared_ptr<MpiOp>()>& make);
  /// Advances everything in flight; done when `op` is.
  Step test(MpiOp& op);
  void wait(MpiOp& op);
  void progress();
  /// Runs `calls` of MPI under the lock.
  void locked(const std::function<void()>& calls);
  /// The same, unless another thread keeps the lock for `patience`: then false, and nothing has run.
  bool try_locked(std::chrono::milliseconds patience, const std::function<void()>& calls);
  /// Stops the progress thread; called before MPI_Finalize.
  void stop();

 private:
  Step advance_all();  // the most that any of them did; lock held
  void thread_main();

  MpiOptions options_;
  std::timed_mutex mutex_;
  std::condition_variable_any changed_;  // for the progress thread's sleep and for waits beside it
  std::vector<std::shared_ptr<MpiOp>> active_;
  std::string failure_;  // text of the first error; every later call throws it
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace tessera::comm
