#pragma once
#include <vector>

#include "comm/cuda/nccl_group.hpp"
#include "tessera/comm/communicator.hpp"

namespace tessera::comm {

class NcclCommunicator final : public Communicator {
 public:
  NcclCommunicator(ncclComm_t comm, int device, int rank, int size, std::string_view name,
                   std::shared_ptr<FlightRing> flight);

  int rank() const noexcept override { return rank_; }
  int size() const noexcept override { return size_; }
  std::string_view transport() const noexcept override { return "nccl"; }
  void progress() override;
  std::shared_ptr<void> allocate(std::size_t bytes) override;
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
  StatePtr start(Ticket ticket, const std::function<ncclResult_t(ncclComm_t, cudaStream_t)>& call);

  std::shared_ptr<NcclGroup> group_;
  int device_;
  int rank_;
  int size_;
  std::shared_ptr<void> meeting_;  // the element that a barrier reduces
  std::shared_ptr<void> scratch_;  // what reduce_scatter_add receives; made when first needed
};

/// Collective over control.
std::unique_ptr<Communicator> start_nccl(int device, Communicator& control, std::string_view name);

}  // namespace tessera::comm
