#pragma once
#include <mpi.h>

#include "comm/mpi_ops.hpp"
#include "tessera/comm/communicator.hpp"

namespace tessera::comm {

class MpiCommunicator final : public Communicator {
 public:
  /// Owns `comm`, a communicator nobody else talks on.
  MpiCommunicator(std::shared_ptr<MpiEngine> engine, std::shared_ptr<FlightRing> flight, MPI_Comm comm,
                  std::string_view name);

  int rank() const noexcept override { return place_.rank; }
  int size() const noexcept override { return place_.size; }
  std::string_view transport() const noexcept override { return "mpi"; }
  void progress() override { engine_->progress(); }
  void close() override;

 protected:
  StatePtr do_all_gather(ConstBuffer shard, Buffer full, Ticket ticket) override;
  StatePtr do_reduce_scatter(ConstBuffer full, Buffer shard, ReduceOp op, Ticket ticket) override;
  StatePtr do_reduce_scatter_add(ConstBuffer full, Buffer acc, Ticket ticket) override;
  StatePtr do_all_reduce(Buffer data, ReduceOp op, Ticket ticket) override;
  StatePtr do_broadcast(Buffer data, int root, Ticket ticket) override;
  void do_barrier(Ticket ticket) override;
  std::unique_ptr<Communicator> do_split(int color, int key, std::string_view name, Ticket ticket) override;

 private:
  template <class Make>
  std::shared_ptr<MpiOp> start(Make&& make, const Ticket& ticket);
  void drain();

  std::shared_ptr<MpiEngine> engine_;
  MpiPlace place_;
  int max_tag_ = 32767;
  std::vector<std::weak_ptr<MpiOp>> in_flight_;
};

}  // namespace tessera::comm
