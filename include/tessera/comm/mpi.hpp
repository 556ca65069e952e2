#pragma once
/// The MPI transport: collectives over host memory.
#include <memory>

#include "tessera/comm/communicator.hpp"
#include "tessera/comm/mpi_env.hpp"

namespace tessera::comm {

/// A communicator of all ranks. Collective. Close it, or drop it, before `env` ends.
/// Reductions sum in rank order; their pipeline takes MpiOptions::scratch_bytes each while in flight.
std::unique_ptr<Communicator> make_mpi(MpiEnv& env);

}  // namespace tessera::comm
