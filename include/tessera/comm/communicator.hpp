#pragma once
/// Communicator: the collectives of one group of ranks over one transport (MPI on host memory, NCCL on device memory).
///
/// Every call is collective: all ranks of the group make it, in the same order, with the same counts and types.
/// Counts are elements, never bytes, and may exceed 2^31. Nothing here depends on what is in a batch.
/// Several communicators: collectives of different groups may be in flight together, but all ranks must start them in
/// one order (NCCL launches in host order; a second order can deadlock).
/// Errors: CommError with rank, operation and what the library said; RunError where the arguments contradict each
/// other. After a CommError the communicator is unusable, and its next call throws the same text.
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "tessera/comm/types.hpp"

namespace tessera::comm {

class FlightRing;
class ScheduleCheck;
class Ticket;

/// What a rank has moved, by kind of operation. `sent`/`received` follow the bandwidth-optimal count: an all_gather of
/// a full buffer of P bytes over W ranks counts (W-1)/W * P each way, a reduce_scatter the same, an all_reduce twice
/// that (rounded down to whole bytes), a broadcast P out of the root and P into the others.
struct Traffic {
  std::int64_t calls = 0;
  std::int64_t sent = 0;      ///< bytes
  std::int64_t received = 0;  ///< bytes
};
using Counters =
    std::map<std::string, Traffic, std::less<>>;  ///< "all_gather", "reduce_scatter", "all_reduce", "broadcast"

/// A started collective. Its buffers belong to it until wait() returns. Move-only; destroying one that was not waited
/// for waits (or, while an exception unwinds, leaves it to the abort); an error met there is thrown by the
/// communicator's next call.
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
  virtual ~Communicator();
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  virtual int rank() const noexcept = 0;
  virtual int size() const noexcept = 0;
  virtual std::string_view transport() const noexcept = 0;  ///< "mpi", "nccl" or "solo"

  /// shard [n] of every rank -> full [n * size], rank-major. `shard.data` may be the rank's own slot of `full`.
  Pending start_all_gather(ConstBuffer shard, Buffer full);
  /// full [n * size] of every rank -> shard [n]: the reduction of slot `rank`. `shard.data` may be the rank's own slot
  /// of `full`. MPI sums in the order of ranks, f16 and bf16 in fp32 with one rounding at the end: for a given size the
  /// result is the same in every run, and equals that of an all_reduce.
  Pending start_reduce_scatter(ConstBuffer full, Buffer shard, ReduceOp op);
  /// A sum over rounds: acc[i] = ((acc[i] + full_0[i]) + full_1[i]) + …, in the order of ranks, `acc` [n] being apart
  /// from `full` [n * size]. From zeros, several rounds give the sequential sum over (round, rank): the same bits for
  /// every number of ranks W when contribution m goes to rank m % W in round m / W, and who has none gives zeros.
  /// f32, f64 and i64, which are added as they are; the same on every transport, NCCL included, to the bit. Counted as
  /// a reduce_scatter.
  Pending start_reduce_scatter_add(ConstBuffer full, Buffer acc);
  /// In place, the same result on every rank to the bit.
  Pending start_all_reduce(Buffer data, ReduceOp op);
  Pending start_broadcast(Buffer data, int root);
  /// Host-blocking. Collectives in flight keep progressing.
  void barrier();

  void all_gather(ConstBuffer shard, Buffer full) { start_all_gather(shard, full).wait(); }
  void reduce_scatter(ConstBuffer full, Buffer shard, ReduceOp op = ReduceOp::sum) {
    start_reduce_scatter(full, shard, op).wait();
  }
  void reduce_scatter_add(ConstBuffer full, Buffer acc) { start_reduce_scatter_add(full, acc).wait(); }
  void all_reduce(Buffer data, ReduceOp op = ReduceOp::sum) { start_all_reduce(data, op).wait(); }
  void broadcast(Buffer data, int root) { start_broadcast(data, root).wait(); }

  /// Lets every collective in flight of this process advance, whichever communicator started it; returns at once.
  /// MPI moves data only inside such calls (and waits): call it between pieces of compute. NCCL: polls for errors.
  virtual void progress() {}

  /// Memory that this transport moves best: page-aligned host memory for MPI; for NCCL, memory of its own allocator,
  /// registered with this communicator (all ranks allocate alike). Freed with the last copy of the pointer. Meant for
  /// buffers that live through the run.
  virtual std::shared_ptr<void> allocate(std::size_t bytes);

  /// Ranks of equal color form a new group, ordered by key then rank. Collective; first completes what this group has
  /// in flight. `name` appears in errors and in the flight record.
  std::unique_ptr<Communicator> split(int color, int key, std::string_view name = "split");
  /// Frees the library's handle on the good path; collective; first completes what is in flight. The destructor, which
  /// may run while an exception unwinds, never blocks: it leaks the MPI handle and aborts NCCL.
  virtual void close() = 0;

  const Counters& counters() const noexcept { return counters_; }
  void reset_counters() { counters_.clear(); }

  const std::string& name() const noexcept { return name_; }
  const std::shared_ptr<FlightRing>& flight() const noexcept { return flight_; }
  /// Debug mode: every later call is first compared across the ranks (see schedule_check.hpp). Collective.
  void set_schedule_check(std::unique_ptr<ScheduleCheck> check);

 protected:
  Communicator(std::string_view name, std::shared_ptr<FlightRing> flight);

  // The transports' part. Arguments are already checked, counted and recorded; `ticket.finish()` is called once the
  // collective is known to be done. A transport keeps the ticket with its state.
  using StatePtr = std::unique_ptr<Pending::State>;
  virtual StatePtr do_all_gather(ConstBuffer shard, Buffer full, Ticket ticket) = 0;
  virtual StatePtr do_reduce_scatter(ConstBuffer full, Buffer shard, ReduceOp op, Ticket ticket) = 0;
  virtual StatePtr do_reduce_scatter_add(ConstBuffer full, Buffer acc, Ticket ticket) = 0;
  virtual StatePtr do_all_reduce(Buffer data, ReduceOp op, Ticket ticket) = 0;
  virtual StatePtr do_broadcast(Buffer data, int root, Ticket ticket) = 0;
  virtual void do_barrier(Ticket ticket) = 0;
  virtual std::unique_ptr<Communicator> do_split(int color, int key, std::string_view name, Ticket ticket) = 0;

 private:
  Ticket begin(const Call& call);
  void count(const Call& call);
  [[noreturn]] void refuse(const Call& call, const std::string& why) const;
  void check_memory(const Call& call, const void* data, std::int64_t n) const;
  void check_alias(const Call& call, ConstBuffer shard, ConstBuffer full) const;

  Counters counters_;
  std::string name_;
  std::shared_ptr<FlightRing> flight_;
  std::unique_ptr<ScheduleCheck> check_;
  std::int64_t sequence_ = 0;
};

}  // namespace tessera::comm
