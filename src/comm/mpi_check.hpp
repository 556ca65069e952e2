#pragma once
#include <mpi.h>

#include <string_view>

namespace tessera::comm {

/// Throws CommError `comm: rank 1/4: <what>: <call> says <MPI's text>` unless `code` is MPI_SUCCESS.
/// The communicator's error handler must be MPI_ERRORS_RETURN.
void check_mpi(int code, int rank, int size, std::string_view what, std::string_view call);

}  // namespace tessera::comm
