#include "comm/cuda/nccl_communicator.hpp"

#include <c10/cuda/CUDAStream.h>

#include <algorithm>
#include <cstdlib>

#include "comm/backoff.hpp"
#include "comm/cuda/add_in_order.hpp"

namespace tessera::comm {
namespace {

constexpr std::int64_t kAddScratchBytes = std::int64_t{64} << 20;  // a rank's, shared by all its reduce_scatter_adds

cudaStream_t current_stream(int device) {
  return c10::cuda::getCurrentCUDAStream(static_cast<c10::DeviceIndex>(device)).stream();
}

ncclDataType_t nccl_type(DType type) {
  switch (type) {
    case DType::f32:
      return ncclFloat32;
    case DType::f64:
      return ncclFloat64;
    case DType::bf16:
      return ncclBfloat16;
    case DType::f16:
      return ncclFloat16;
    case DType::i64:
      return ncclInt64;
    case DType::bytes:
      return ncclUint8;
  }
  throw RunError("comm: element type {} is unknown to NCCL", static_cast<int>(type));
}

ncclRedOp_t nccl_op(ReduceOp op) {
  switch (op) {
    case ReduceOp::sum:
      return ncclSum;
    case ReduceOp::max:
      return ncclMax;
    case ReduceOp::min:
      return ncclMin;
  }
  throw RunError("comm: reduction {} is unknown to NCCL", static_cast<int>(op));
}

std::size_t elements(std::int64_t count) {
  return static_cast<std::size_t>(count);
}

class NcclState final : public Pending::State {
 public:
  NcclState(std::shared_ptr<NcclGroup> group, std::shared_ptr<NcclWork> work, int device)
      : group_(std::move(group)), work_(std::move(work)), device_(device) {}
  void wait() override {
    if (group_->done(*work_)) return;  // also throws what the monitor found
    check_cuda(cudaStreamWaitEvent(current_stream(device_), work_->done.get(), 0), work_->ticket.what(),
               "cudaStreamWaitEvent");
  }
  bool test() override { return group_->done(*work_); }

 private:
  std::shared_ptr<NcclGroup> group_;
  std::shared_ptr<NcclWork> work_;
  int device_;
};

/// Slot r of `full`, elements [begin, begin + n), to rank r; what the others send lies in `received` by rank.
struct SlotExchange {
  int rank, size;
  DType type;
  const std::byte* full;
  std::int64_t slot, begin, n;  // elements
  std::byte* received;

  ncclResult_t run(ncclComm_t comm, cudaStream_t stream) const {
    const auto width = static_cast<std::int64_t>(size_of(type));
    ncclResult_t code = ncclGroupStart();
    for (int step = 1; step < size && code == ncclSuccess; ++step) {
      const int to = (rank + step) % size;
      const int from = (rank + size - step) % size;
      code = ncclSend(full + (to * slot + begin) * width, elements(n), nccl_type(type), to, comm, stream);
      if (code != ncclSuccess) break;
      code = ncclRecv(received + (from < rank ? from : from - 1) * n * width, elements(n), nccl_type(type), from, comm,
                      stream);
    }
    const ncclResult_t ended = ncclGroupEnd();
    return code == ncclSuccess ? ended : code;
  }
};

template <class T>
void add_terms(Buffer acc, const SlotExchange& e, const std::string& what, cudaStream_t stream) {
  const auto* own = reinterpret_cast<const T*>(e.full) + e.rank * e.slot + e.begin;
  check_cuda(add_in_order(static_cast<T*>(acc.data) + e.begin, own, reinterpret_cast<const T*>(e.received), e.n, e.size,
                          e.rank, stream),
             what, "the kernel that adds");
}

/// Memory of NCCL's own allocator, registered with one communicator for as long as both live.
class RegisteredMemory {
 public:
  RegisteredMemory(const std::shared_ptr<NcclGroup>& group, std::size_t bytes) : group_(group) {
    const std::string what = fmt::format("memory of {} bytes", bytes);
    if (const ncclResult_t code = ncclMemAlloc(&data_, bytes); code != ncclSuccess) {
      throw CommError("nccl: {}: {}: ncclMemAlloc says {}", group->place(), what, ncclGetErrorString(code));
    }
    try {
      group->run(what, "ncclCommRegister",
                 [&](ncclComm_t comm) { return ncclCommRegister(comm, data_, bytes, &handle_); });
    } catch (...) {
      ncclMemFree(data_);
      throw;
    }
  }
  ~RegisteredMemory() {
    try {
      if (const auto group = group_.lock(); group && handle_ != nullptr) {
        group->run("memory", "ncclCommDeregister", [&](ncclComm_t comm) { return ncclCommDeregister(comm, handle_); });
      }
    } catch (const std::exception&) {  // closed or failed: the registration went with it
    }
    ncclMemFree(data_);
  }
  RegisteredMemory(const RegisteredMemory&) = delete;
  RegisteredMemory& operator=(const RegisteredMemory&) = delete;
  void* data() const noexcept { return data_; }

 private:
  std::weak_ptr<NcclGroup> group_;
  void* data_ = nullptr;
  void* handle_ = nullptr;
};

}  // namespace

NcclCommunicator::NcclCommunicator(ncclComm_t comm, int device, int rank, int size, std::string_view name,
                                   std::shared_ptr<FlightRing> flight)
    : Communicator(name, std::move(flight)),
      group_(
          std::make_shared<NcclGroup>(comm, device, fmt::format("{}: rank {}/{} on GPU {}", name, rank, size, device))),
      device_(device),
      rank_(rank),
      size_(size) {
  void* element = nullptr;
  check_cuda(cudaMalloc(&element, sizeof(std::int32_t)), "start", "cudaMalloc");
  meeting_ = std::shared_ptr<void>(element, [](void* p) { cudaFree(p); });
  check_cuda(cudaMemset(element, 0, sizeof(std::int32_t)), "start", "cudaMemset");
}

Communicator::StatePtr NcclCommunicator::start(Ticket ticket,
                                               const std::function<ncclResult_t(ncclComm_t, cudaStream_t)>& call) {
  auto work = group_->launch(std::move(ticket), current_stream(device_), call);
  return std::make_unique<NcclState>(group_, std::move(work), device_);
}

Communicator::StatePtr NcclCommunicator::do_all_gather(ConstBuffer shard, Buffer full, Ticket ticket) {
  return start(std::move(ticket), [&](ncclComm_t comm, cudaStream_t stream) {
    return ncclAllGather(shard.data, full.data, elements(shard.count), nccl_type(shard.type), comm, stream);
  });
}

Communicator::StatePtr NcclCommunicator::do_reduce_scatter(ConstBuffer full, Buffer shard, ReduceOp op, Ticket ticket) {
  return start(std::move(ticket), [&](ncclComm_t comm, cudaStream_t stream) {
    return ncclReduceScatter(full.data, shard.data, elements(shard.count), nccl_type(shard.type), nccl_op(op), comm,
                             stream);
  });
}

/// Every slot goes to its rank as it is and is added there in the order of ranks: NCCL's own reductions choose their
/// order themselves. In segments, so that scratch has one size whatever the count.
Communicator::StatePtr NcclCommunicator::do_reduce_scatter_add(ConstBuffer full, Buffer acc, Ticket ticket) {
  const std::string what = ticket.what();
  if (!scratch_ && size_ > 1) {
    const DeviceScope scope(device_);
    void* data = nullptr;
    check_cuda(cudaMalloc(&data, kAddScratchBytes), what, "cudaMalloc");
    scratch_ = std::shared_ptr<void>(data, [](void* p) { cudaFree(p); });
  }
  const auto width = static_cast<std::int64_t>(size_of(acc.type));
  const std::int64_t segment = std::max<std::int64_t>(1, kAddScratchBytes / std::max(1, size_ - 1) / width);
  return start(std::move(ticket), [&](ncclComm_t comm, cudaStream_t stream) {
    SlotExchange e{rank_,     size_, acc.type, static_cast<const std::byte*>(full.data),
                   acc.count, 0,     0,        static_cast<std::byte*>(scratch_.get())};
    for (; e.begin < acc.count; e.begin += segment) {
      e.n = std::min(segment, acc.count - e.begin);
      if (size_ > 1) group_->settle_step(e.run(comm, stream), "ncclGroupEnd");
      if (acc.type == DType::f32) add_terms<float>(acc, e, what, stream);
      if (acc.type == DType::f64) add_terms<double>(acc, e, what, stream);
      if (acc.type == DType::i64) add_terms<unsigned long long>(acc, e, what, stream);
    }
    return ncclSuccess;
  });
}

Communicator::StatePtr NcclCommunicator::do_all_reduce(Buffer data, ReduceOp op, Ticket ticket) {
  return start(std::move(ticket), [&](ncclComm_t comm, cudaStream_t stream) {
    return ncclAllReduce(data.data, data.data, elements(data.count), nccl_type(data.type), nccl_op(op), comm, stream);
  });
}

Communicator::StatePtr NcclCommunicator::do_broadcast(Buffer data, int root, Ticket ticket) {
  return start(std::move(ticket), [&](ncclComm_t comm, cudaStream_t stream) {
    return ncclBroadcast(data.data, data.data, elements(data.count), nccl_type(data.type), root, comm, stream);
  });
}

void NcclCommunicator::do_barrier(Ticket ticket) {
  void* element = meeting_.get();
  const auto work =
      group_->launch(std::move(ticket), current_stream(device_), [&](ncclComm_t comm, cudaStream_t stream) {
        return ncclAllReduce(element, element, 1, ncclInt32, ncclMax, comm, stream);
      });
  Backoff backoff;  // polled, so that an asynchronous error ends the wait
  while (!group_->done(*work)) backoff.pause();
}

std::unique_ptr<Communicator> NcclCommunicator::do_split(int color, int key, std::string_view name, Ticket ticket) {
  do_barrier(Ticket{nullptr, -1, ticket.what()});  // completes what is in flight
  const std::string label(name);
  ncclConfig_t config = nccl_config(label);
  ncclComm_t part = nullptr;
  group_->run(ticket.what(), "ncclCommSplit",
              [&](ncclComm_t comm) { return ncclCommSplit(comm, color, key, &part, &config); });
  int part_rank = 0;
  int part_size = 0;
  // The child may still be starting; its place is known once it is ready.
  Backoff backoff;
  ncclResult_t state = ncclInProgress;
  while (ncclCommGetAsyncError(part, &state) == ncclSuccess && state == ncclInProgress) backoff.pause();
  if (ncclCommUserRank(part, &part_rank) != ncclSuccess || ncclCommCount(part, &part_size) != ncclSuccess) {
    throw CommError("nccl: {}: {}: ncclCommSplit says {}", group_->place(), ticket.what(), ncclGetLastError(part));
  }
  ticket.finish();
  return std::make_unique<NcclCommunicator>(part, device_, part_rank, part_size, name, flight());
}

void NcclCommunicator::progress() {
  group_->poll();
  group_->require_healthy("progress");
}

std::shared_ptr<void> NcclCommunicator::allocate(std::size_t bytes) {
  const DeviceScope scope(device_);
  const auto memory = std::make_shared<RegisteredMemory>(group_, std::max<std::size_t>(bytes, 1));
  return {memory, memory->data()};
}

void NcclCommunicator::close() {
  group_->close();
}

std::unique_ptr<Communicator> start_nccl(int device, Communicator& control, std::string_view name) {
  setenv("NCCL_LAUNCH_ORDER_IMPLICIT", "1", /*overwrite=*/0);  // several communicators on one device
  const std::string place = fmt::format("{}: rank {}/{} on GPU {}", name, control.rank(), control.size(), device);
  const auto check = [&](ncclResult_t code, const char* call) {
    if (code == ncclSuccess || code == ncclInProgress) return;
    throw CommError("nccl: {}: start: {} says {}: {}", place, call, ncclGetErrorString(code),
                    ncclGetLastError(nullptr));
  };
  const DeviceScope scope(device);
  ncclUniqueId id{};
  if (control.rank() == 0) check(ncclGetUniqueId(&id), "ncclGetUniqueId");
  control.broadcast({id.internal, static_cast<std::int64_t>(sizeof id.internal), DType::bytes}, 0);
  const std::string label(name);
  ncclConfig_t config = nccl_config(label);
  ncclComm_t comm = nullptr;
  check(ncclCommInitRankConfig(&comm, control.size(), id, control.rank(), &config), "ncclCommInitRankConfig");
  return std::make_unique<NcclCommunicator>(comm, device, control.rank(), control.size(), name, control.flight());
}

}  // namespace tessera::comm
