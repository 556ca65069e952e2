#pragma once
/// MpiEnv: starts MPI and ends it; the outermost owner of a program. Every communicator of make_mpi() lives inside it.
///
/// Works started without mpirun (one rank). Where MPI runs already (a test's main), it is used and not ended.
/// The destructor completes nothing: communicators are closed before. While an exception unwinds, MPI_Finalize, which
/// would wait for the other ranks, is skipped; the caller's guard then calls abort().
#include <cstdint>
#include <functional>
#include <memory>

namespace tessera::comm {

class FlightRing;
class MpiEngine;  // private: drives the collectives in flight

struct MpiOptions {
  /// A thread that lets collectives advance while the caller computes: then nothing is left to wait for when the
  /// compute lasts as long as the collective (bench_comm shows it). It sleeps while nothing is in flight, and while
  /// messages are only awaited; moving and summing bytes takes its share of a core, with or without it. Without it,
  /// collectives advance in waits and in calls of Communicator::progress().
  bool progress_thread = false;
  std::int64_t max_message_bytes = std::int64_t{1} << 30;  ///< longer messages are cut (MPI counts are int)
  std::int64_t segment_bytes = std::int64_t{1} << 19;      ///< of each peer, in a reduction's pipeline
  /// Of one reduction in flight: the more, the further it gets between two calls of progress(). Two segments at least.
  std::int64_t scratch_bytes = std::int64_t{8} << 20;
};

class MpiEnv {
 public:
  /// Asks for MPI_THREAD_SERIALIZED: all our calls of MPI hold one lock. Idle waiting yields the core
  /// (mpi_yield_when_idle, unless the user has set it). Throws CommError.
  MpiEnv(int* argc, char*** argv, const MpiOptions& options = {});
  ~MpiEnv();
  MpiEnv(const MpiEnv&) = delete;
  MpiEnv& operator=(const MpiEnv&) = delete;

  int rank() const noexcept { return rank_; }
  int size() const noexcept { return size_; }
  int local_rank() const noexcept { return local_rank_; }  ///< among the ranks of this host
  int local_size() const noexcept { return local_size_; }
  int node() const noexcept { return node_; }    ///< index of this host, by its lowest rank
  int nodes() const noexcept { return nodes_; }  ///< hosts of the job

  const std::shared_ptr<FlightRing>& flight() const noexcept { return flight_; }
  const std::shared_ptr<MpiEngine>& engine() const noexcept { return engine_; }  // for transports

  /// Ends the job on every rank with this exit status; does not return.
  [[noreturn]] void abort(int status) noexcept;

 private:
  void find_place();

  bool owns_ = false;
  int unwinding_at_start_ = 0;
  int rank_ = 0, size_ = 1, local_rank_ = 0, local_size_ = 1, node_ = 0, nodes_ = 1;
  std::shared_ptr<FlightRing> flight_;
  std::shared_ptr<MpiEngine> engine_;
};

}  // namespace tessera::comm
