#pragma once
/// The MPI collectives as machines of steps over nonblocking messages. Direct exchange: every rank sends to every
/// other. Among the ranks of a host that is one copy (or two through shared memory) of each byte, and no rank waits for
/// a forwarder. Messages travel as bytes, so element types matter to the local reduction alone.
#include <mpi.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "comm/mpi_engine.hpp"
#include "tessera/comm/flight.hpp"
#include "tessera/comm/types.hpp"

namespace tessera::comm {

/// Where one collective talks: its communicator, its place there, and a tag of its own.
struct MpiPlace {
  MPI_Comm comm = MPI_COMM_NULL;
  int rank = 0;
  int size = 1;
  int tag = 0;
  std::int64_t max_message_bytes = 0;
  std::int64_t segment_bytes = 0;
  std::int64_t scratch_bytes = 0;
};

/// How the elements of a buffer fall to the ranks: slot r holds [offset(r), offset(r) + length(r)).
struct Slots {
  std::int64_t stride = 0;  ///< elements of a full slot
  std::int64_t total = 0;   ///< the last slots may be short or empty
  std::int64_t offset(int r) const noexcept { return std::min(r * stride, total); }
  std::int64_t length(int r) const noexcept { return std::min((r + 1) * stride, total) - offset(r); }
};

/// Cuts [0, bytes) into pieces of at most `limit` and calls piece(begin, length) for each.
template <class F>
void for_each_piece(std::int64_t bytes, std::int64_t limit, F&& piece) {
  for (std::int64_t begin = 0; begin < bytes; begin += limit) piece(begin, std::min(limit, bytes - begin));
}

/// Messages posted together and awaited together.
class Messages {
 public:
  Messages(const MpiPlace& place, const std::string& what) : place_(place), what_(what) {}
  void send(const std::byte* data, std::int64_t bytes, int peer);
  void receive(std::byte* data, std::int64_t bytes, int peer);
  /// Adds a request that an MPI call has filled in.
  MPI_Request* add();
  /// True when all are done, which forgets them.
  bool done();
  void check(int code, const char* call) const;

 private:
  const MpiPlace& place_;
  const std::string& what_;
  std::vector<MPI_Request> requests_;
};

// Each posts its first messages: call them with the engine's lock held (MpiEngine::start).
std::shared_ptr<MpiOp> make_all_gather(const MpiPlace& place, ConstBuffer shard, Buffer full, Ticket ticket);
std::shared_ptr<MpiOp> make_reduce_scatter(const MpiPlace& place, ConstBuffer full, Buffer shard, ReduceOp op,
                                           Ticket ticket);
std::shared_ptr<MpiOp> make_reduce_scatter_add(const MpiPlace& place, ConstBuffer full, Buffer acc, Ticket ticket);
std::shared_ptr<MpiOp> make_all_reduce(const MpiPlace& place, Buffer data, ReduceOp op, Ticket ticket);
std::shared_ptr<MpiOp> make_broadcast(const MpiPlace& place, Buffer data, int root, Ticket ticket);
std::shared_ptr<MpiOp> make_barrier(const MpiPlace& place, Ticket ticket);

}  // namespace tessera::comm
