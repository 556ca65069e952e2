#pragma once
/// Transports: the communicators of one run, chosen by the device, and their owner.
#include <memory>
#include <string>

#include "tessera/comm/communicator.hpp"
#include "tessera/comm/device.hpp"
#include "tessera/comm/fabric.hpp"
#include "tessera/comm/mpi_env.hpp"

namespace tessera::comm {

struct TransportOptions {
  /// "auto" (GPUs if this build has CUDA and each rank of the job finds one of its own, the CPU otherwise), "cpu" or
  /// "cuda".
  std::string device = "auto";
  bool check_schedule = false;  ///< compare every call across the ranks (debug mode)
  /// 0: the hosts of the job are its nodes. Otherwise every so many ranks in a row play a node, wherever they run.
  int ranks_per_node = 0;
};

class Transports {
 public:
  /// On GPUs the device communicators are NCCL's; on the CPU MPI's, so that the byte counters of all transports read
  /// alike. Collective. Throws RequestError on every rank for another device word, for "cuda" where a rank has no GPU,
  /// and for played nodes that do not divide the ranks.
  explicit Transports(MpiEnv& env, const TransportOptions& options = {});
  ~Transports();

  const Fabric& fabric() const noexcept { return fabric_; }
  bool on_gpu() const noexcept { return gpu_ != nullptr; }
  const Gpu* gpu() const noexcept { return gpu_.get(); }  ///< null on the CPU
  /// What the user should hear, the same on every rank; empty if nothing. Hosts with different numbers of ranks: the
  /// fabric then counts as one node.
  const std::string& warning() const noexcept { return warning_; }

  /// Ends the communicators in order; collective. Without it, as when an exception unwinds, they are abandoned.
  void close();

 private:
  std::shared_ptr<Gpu> gpu_;
  void make_nodes(const MpiEnv& env, int ranks_per_node);
  void check_schedules();

  std::unique_ptr<Communicator> control_, gather_, reduce_, node_gather_, cross_gather_;
  std::string warning_;
  Fabric fabric_;
};

}  // namespace tessera::comm
