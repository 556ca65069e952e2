#include "comm/cuda/nccl_group.hpp"

#include <chrono>
#include <exception>
#include <future>

#include "comm/backoff.hpp"

namespace tessera::comm {
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::chrono::milliseconds kMonitorPeriod{20};
constexpr std::chrono::seconds kAbortLimit{20};
constexpr std::chrono::seconds kStartLimit{600};  // for one call to leave ncclInProgress

[[noreturn]] void throw_nccl(const std::string& place, const std::string& what, const char* name, ncclResult_t code,
                             ncclComm_t comm) {
  const char* detail = ncclGetLastError(comm);
  throw CommError("nccl: {}: {}: {} says {}{}{}", place, what, name, ncclGetErrorString(code),
                  detail != nullptr && *detail != '\0' ? ": " : "", detail != nullptr ? detail : "");
}

}  // namespace

ncclConfig_t nccl_config(const std::string& name) {
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;  // an abort is legal only while no thread sits in a call
  config.commName = name.c_str();
  return config;
}

NcclGroup::NcclGroup(ncclComm_t comm, int device, std::string place)
    : comm_(comm), device_(device), place_(std::move(place)) {
  try {
    settle(ncclInProgress, comm_, "start", "ncclCommInitRankConfig");
    stream_ = make_priority_stream();
    ready_ = make_event();
  } catch (...) {
    abort_in_background();
    throw;
  }
  monitor_ = std::thread([this] { monitor(); });
}

NcclGroup::~NcclGroup() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  stop_.notify_all();
  if (monitor_.joinable()) monitor_.join();
  abort_in_background();
}

/// Polls a call of a non-blocking communicator until it is through.
void NcclGroup::settle(ncclResult_t code, ncclComm_t comm, const std::string& what, const char* name) {
  const auto limit = Clock::now() + kStartLimit;
  Backoff backoff;
  while (code == ncclInProgress) {
    ncclResult_t state = ncclSuccess;
    if (const ncclResult_t asked = ncclCommGetAsyncError(comm, &state); asked != ncclSuccess) state = asked;
    code = state;
    if (code != ncclInProgress) break;
    if (Clock::now() > limit) {
      throw CommError("nccl: {}: {}: {} is still in progress after {} s: is a rank missing?", place_, what, name,
                      kStartLimit.count());
    }
    backoff.pause();
  }
  if (code != ncclSuccess) throw_nccl(place_, what, name, code, comm);
}

void NcclGroup::require_healthy(const std::string& what) {
  const std::lock_guard lock(mutex_);
  if (!failure_.empty()) throw CommError("{}", failure_);
  if (comm_ == nullptr) throw RunError("comm: {}: {}: the communicator is closed", place_, what);
}

std::shared_ptr<NcclWork> NcclGroup::launch(Ticket ticket, cudaStream_t current,
                                            const std::function<ncclResult_t(ncclComm_t, cudaStream_t)>& call) {
  require_healthy(ticket.what());
  const DeviceScope scope(device_);
  auto work = std::make_shared<NcclWork>();
  work->ticket = std::move(ticket);
  work->done = make_event();
  const std::string& what = work->ticket.what();
  const std::lock_guard lock(mutex_);
  check_cuda(cudaEventRecord(ready_.get(), current), what, "cudaEventRecord");
  check_cuda(cudaStreamWaitEvent(stream_.get(), ready_.get(), 0), what, "cudaStreamWaitEvent");
  settle(call(comm_, stream_.get()), comm_, what, "the collective");
  check_cuda(cudaEventRecord(work->done.get(), stream_.get()), what, "cudaEventRecord");
  running_.push_back(work);
  return work;
}

void NcclGroup::run(const std::string& what, const char* name, const std::function<ncclResult_t(ncclComm_t)>& call) {
  require_healthy(what);
  const DeviceScope scope(device_);
  const std::lock_guard lock(mutex_);
  settle(call(comm_), comm_, what, name);
}

bool NcclGroup::done(const NcclWork& work) {
  {
    const std::lock_guard lock(mutex_);
    if (!failure_.empty()) throw CommError("{}", failure_);
  }
  const cudaError_t code = cudaEventQuery(work.done.get());
  if (code == cudaErrorNotReady) {
    cudaGetLastError();
    return false;
  }
  check_cuda(code, work.ticket.what(), "cudaEventQuery");
  return true;
}

void NcclGroup::poll() {
  const std::lock_guard lock(mutex_);
  poll_locked();
}

void NcclGroup::poll_locked() {
  if (!failure_.empty() || comm_ == nullptr) return;
  while (!running_.empty()) {
    const cudaError_t code = cudaEventQuery(running_.front()->done.get());
    if (code == cudaErrorNotReady) {
      cudaGetLastError();
      break;
    }
    if (code != cudaSuccess) {
      fail(fmt::format("nccl: {}: {}: the device says {}", place_, running_.front()->ticket.what(),
                       cudaGetErrorString(code)));
      return;
    }
    running_.front()->ticket.finish();
    running_.pop_front();
  }
  ncclResult_t state = ncclSuccess;
  const ncclResult_t asked = ncclCommGetAsyncError(comm_, &state);
  if (asked != ncclSuccess) state = asked;
  if (state == ncclSuccess || state == ncclInProgress) return;
  const char* detail = ncclGetLastError(comm_);
  const std::string what = running_.empty() ? std::string("idle") : running_.front()->ticket.what();
  fail(fmt::format("nccl: {}: {}: {}: {}", place_, what, ncclGetErrorString(state), detail != nullptr ? detail : ""));
}

/// The kernels of a failed communicator end only by its abort.
void NcclGroup::fail(const std::string& text) {
  failure_ = text;
  abort_in_background();
}

void NcclGroup::abort_in_background() noexcept {
  if (comm_ == nullptr) return;
  try {
    // An abort can hang (it waits for other ranks of the node): it gets a thread and a limit, and is then left alone.
    std::packaged_task<void()> task([comm = comm_, device = device_] {
      cudaSetDevice(device);
      ncclCommAbort(comm);
    });
    const std::future<void> over = task.get_future();
    std::thread(std::move(task)).detach();
    over.wait_for(kAbortLimit);
  } catch (const std::exception&) {  // no thread to be had: the process is ending anyway
  }
  comm_ = nullptr;
}

void NcclGroup::close() {
  {
    const std::lock_guard lock(mutex_);
    if (comm_ == nullptr || !failure_.empty()) return;
  }
  const DeviceScope scope(device_);
  check_cuda(cudaStreamSynchronize(stream_.get()), "close", "cudaStreamSynchronize");
  poll();
  const std::lock_guard lock(mutex_);
  if (comm_ == nullptr) return;
  settle(ncclCommFinalize(comm_), comm_, "close", "ncclCommFinalize");
  const ncclResult_t code = ncclCommDestroy(comm_);
  comm_ = nullptr;
  if (code != ncclSuccess)
    throw CommError("nccl: {}: close: ncclCommDestroy says {}", place_, ncclGetErrorString(code));
}

void NcclGroup::monitor() {
  cudaSetDevice(device_);
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    poll_locked();
    stop_.wait_for(lock, kMonitorPeriod, [this] { return stopping_; });
  }
}

}  // namespace tessera::comm
