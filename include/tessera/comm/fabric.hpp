#pragma once
/// Fabric: the communicators of one job. Operations of one communicator run in launch order even on different streams,
/// so gathers and reductions have one each; host-side agreement (counts, errors, texts) has its own over MPI.
/// On a CPU all three may be the same object. Owns nothing.
#include "tessera/comm/communicator.hpp"

namespace tessera::comm {

struct Fabric {
  Communicator* control = nullptr;  ///< host memory, always MPI
  Communicator* gather = nullptr;   ///< memory of the compute device
  Communicator* reduce = nullptr;   ///< memory of the compute device
  int rank() const noexcept { return control->rank(); }
  int size() const noexcept { return control->size(); }
  /// Everything over one host communicator.
  static Fabric on_host(Communicator& comm) noexcept { return {&comm, &comm, &comm}; }
};

}  // namespace tessera::comm
