#pragma once
/// Transports: the communicators of one run, chosen by the device, and their owner.
#include <memory>
#include <string_view>

#include "tessera/comm/communicator.hpp"
#include "tessera/comm/device.hpp"
#include "tessera/comm/fabric.hpp"
#include "tessera/comm/mpi_env.hpp"

namespace tessera::comm {

class Transports {
 public:
  /// `device` is "auto" (GPUs if this build has CUDA and each rank of the job finds one of its own, the CPU otherwise),
  /// "cpu" or "cuda". On GPUs gather and reduce are two NCCL communicators; on the CPU two of MPI, so that the byte
  /// counters of all transports read alike. `check_schedule` compares every call across the ranks (debug mode).
  /// Collective. Throws RequestError on every rank for another word, or for "cuda" where a rank has no GPU.
  Transports(MpiEnv& env, std::string_view device, bool check_schedule = false);
  ~Transports();

  const Fabric& fabric() const noexcept { return fabric_; }
  bool on_gpu() const noexcept { return gpu_ != nullptr; }
  const Gpu* gpu() const noexcept { return gpu_.get(); }  ///< null on the CPU

  /// Ends the communicators in order; collective. Without it, as when an exception unwinds, they are abandoned.
  void close();

 private:
  std::shared_ptr<Gpu> gpu_;
  std::unique_ptr<Communicator> control_, gather_, reduce_;
  Fabric fabric_;
};

}  // namespace tessera::comm
