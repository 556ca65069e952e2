#pragma once
/// NcclGroup: one ncclComm_t, non-blocking, with the lock that every call on it holds, the monitor that watches it, and
/// the abort that ends it.
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "comm/cuda/handles.hpp"
#include "tessera/comm/flight.hpp"

namespace tessera::comm {

/// A collective on the device: `done` is recorded behind it.
struct NcclWork {
  Event done;
  Ticket ticket;
};

class NcclGroup {
 public:
  /// Takes the communicator over, which may still be starting, and waits until it is ready.
  NcclGroup(ncclComm_t comm, int device, std::string place);
  /// Never blocks for long: aborts NCCL unless close() has run, and leaves an abort that hangs to a thread of its own.
  ~NcclGroup();
  NcclGroup(const NcclGroup&) = delete;
  NcclGroup& operator=(const NcclGroup&) = delete;

  /// Runs NCCL calls on this group's stream, behind `current`, and records their end. A `call` that makes several, or
  /// puts kernels between them, settles each but the last, which it returns.
  std::shared_ptr<NcclWork> launch(Ticket ticket, cudaStream_t current,
                                   const std::function<ncclResult_t(ncclComm_t, cudaStream_t)>& call);
  /// Any other call on the communicator, until NCCL says it is complete.
  void run(const std::string& what, const char* name, const std::function<ncclResult_t(ncclComm_t)>& call);
  /// Inside a call of launch(): waits until NCCL has taken a step, so that what comes next on the stream comes behind
  /// it.
  void settle_step(ncclResult_t code, const char* name) { settle(code, comm_, "a step", name); }
  /// True when the collective has ended on the device. Throws what the monitor found.
  bool done(const NcclWork& work);
  /// Marks finished collectives and looks for asynchronous errors.
  void poll();
  /// Ends NCCL in order. Collective.
  void close();
  void require_healthy(const std::string& what);
  const std::string& place() const noexcept { return place_; }

 private:
  void settle(ncclResult_t code, ncclComm_t comm, const std::string& what, const char* name);
  void poll_locked();
  void fail(const std::string& text);
  void abort_in_background() noexcept;
  void monitor();

  ncclComm_t comm_;
  int device_;
  std::string place_;  // "rank 1/8 on GPU 1", for errors
  Stream stream_;
  Event ready_;
  std::mutex mutex_;
  std::condition_variable stop_;
  std::deque<std::shared_ptr<NcclWork>> running_;  // in stream order, so the first ends first
  std::string failure_;
  bool stopping_ = false;
  std::thread monitor_;
};

/// An id that the group's first rank makes and control carries to the others; then the communicator, perhaps
/// unfinished.
ncclConfig_t nccl_config(const std::string& name);

}  // namespace tessera::comm
