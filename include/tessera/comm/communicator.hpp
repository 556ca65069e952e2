#pragma once
/// Communicator: the collectives of one group of ranks over one transport (MPI on host memory, NCCL on device memory).
///
/// Every call is collective: all ranks of the group make it, in the same order, with the same counts and types.
/// Counts are elements, never bytes, and may exceed 2^31. Nothing here depends on what is in a batch.
/// Errors: CommError with rank, operation and what the library said.
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>

namespace tessera::comm {

enum class DType : std::uint8_t { f32, f64, bf16, f16, i64, bytes };
std::size_t size_of(DType type) noexcept;
std::string_view name_of(DType type) noexcept;

enum class ReduceOp : std::uint8_t { sum, max, min };

/// Memory of one rank that takes part: address, elements, type. Host memory for MPI, device memory for NCCL.
struct Buffer {
  void* data = nullptr;
  std::int64_t count = 0;
  DType type = DType::f32;
};
struct ConstBuffer {
  ConstBuffer() = default;
  ConstBuffer(const void* d, std::int64_t n, DType t) : data(d), count(n), type(t) {}
  ConstBuffer(const Buffer& b) : data(b.data), count(b.count), type(b.type) {}  // NOLINT(google-explicit-constructor)
  const void* data = nullptr;
  std::int64_t count = 0;
  DType type = DType::f32;
};

/// What a rank has moved, by kind of operation. `sent`/`received` follow the bandwidth-optimal count: an all_gather of a
/// full buffer of P bytes over W ranks counts (W-1)/W * P each way, a reduce_scatter the same, an all_reduce twice that,
/// a broadcast P out of the root and P into the others.
struct Traffic {
  std::int64_t calls = 0;
  std::int64_t sent = 0;      ///< bytes
  std::int64_t received = 0;  ///< bytes
};
using Counters = std::map<std::string, Traffic, std::less<>>;  ///< "all_gather", "reduce_scatter", "all_reduce", "broadcast"

/// A started collective. Its buffers belong to it until wait() returns. Move-only; destroying one that was not waited
/// for waits (or, while an exception unwinds, leaves it to the abort).
class Pending {
 public:
  class State {  // implemented by each transport
   public:
    virtual ~State() = default;
    virtual void wait() = 0;
    virtual bool test() = 0;
  };
  Pending() = default;
  explicit Pending(std::unique_ptr<State> state) noexcept : state_(std::move(state)) {}
  Pending(Pending&&) noexcept = default;
  Pending& operator=(Pending&& other) noexcept;
  ~Pending();

  /// MPI: returns when the buffers are done. NCCL: makes the current stream wait; the host does not block.
  void wait();
  /// Drives progress; true when done.
  bool test();
  bool pending() const noexcept { return state_ != nullptr; }

 private:
  std::unique_ptr<State> state_;
};

class Communicator {
 public:
  virtual ~Communicator() = default;
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  virtual int rank() const noexcept = 0;
  virtual int size() const noexcept = 0;
  virtual std::string_view transport() const noexcept = 0;  ///< "mpi" or "nccl"

  /// shard [n] of every rank -> full [n * size], rank-major. `shard.data` may be the rank's own slot of `full`.
  virtual Pending start_all_gather(ConstBuffer shard, Buffer full) = 0;
  /// full [n * size] of every rank -> shard [n]: the reduction of slot `rank`. bf16 and f16 are summed in fp32.
  virtual Pending start_reduce_scatter(ConstBuffer full, Buffer shard, ReduceOp op) = 0;
  /// In place, the same result on every rank to the bit.
  virtual Pending start_all_reduce(Buffer data, ReduceOp op) = 0;
  virtual Pending start_broadcast(Buffer data, int root) = 0;
  virtual void barrier() = 0;

  void all_gather(ConstBuffer shard, Buffer full) { start_all_gather(shard, full).wait(); }
  void reduce_scatter(ConstBuffer full, Buffer shard, ReduceOp op = ReduceOp::sum) {
    start_reduce_scatter(full, shard, op).wait();
  }
  void all_reduce(Buffer data, ReduceOp op = ReduceOp::sum) { start_all_reduce(data, op).wait(); }
  void broadcast(Buffer data, int root) { start_broadcast(data, root).wait(); }

  /// Ranks of equal color form a new group, ordered by key then rank. Collective.
  virtual std::unique_ptr<Communicator> split(int color, int key) = 0;
  /// Frees the library's handle on the good path; collective. The destructor, which may run while an exception unwinds,
  /// never blocks: it leaks the MPI handle and aborts NCCL.
  virtual void close() = 0;

  const Counters& counters() const noexcept { return counters_; }
  void reset_counters() { counters_.clear(); }

 protected:
  Communicator() = default;
  Counters counters_;
};

}  // namespace tessera::comm
