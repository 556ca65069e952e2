#include "tessera/comm/mpi_env.hpp"

#include <mpi.h>

#include <cstdlib>
#include <exception>

#include "comm/mpi_check.hpp"
#include "comm/mpi_engine.hpp"
#include "tessera/comm/flight.hpp"
#include "tessera/core/error.hpp"

namespace tessera::comm {

MpiEnv::MpiEnv(int* argc, char*** argv, const MpiOptions& options)
    : unwinding_at_start_(std::uncaught_exceptions()), flight_(std::make_shared<FlightRing>()) {
  int running = 0;
  MPI_Initialized(&running);
  int provided = MPI_THREAD_SINGLE;
  if (running != 0) {
    MPI_Query_thread(&provided);
  } else {
    // Open MPI reads it at start; without it, a rank that waits inside MPI keeps its core busy.
    setenv("OMPI_MCA_mpi_yield_when_idle", "1", /*overwrite=*/0);
    check_mpi(MPI_Init_thread(argc, argv, MPI_THREAD_SERIALIZED, &provided), 0, 1, "start", "MPI_Init_thread");
    owns_ = true;
  }
  if (provided < MPI_THREAD_SERIALIZED) {
    throw CommError("comm: this MPI grants thread level {} only; MPI_THREAD_SERIALIZED ({}) is needed", provided,
                    static_cast<int>(MPI_THREAD_SERIALIZED));
  }
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  find_place();
  engine_ = std::make_shared<MpiEngine>(options);
}

void MpiEnv::find_place() {
  check_mpi(MPI_Comm_rank(MPI_COMM_WORLD, &rank_), 0, 1, "start", "MPI_Comm_rank");
  check_mpi(MPI_Comm_size(MPI_COMM_WORLD, &size_), rank_, 1, "start", "MPI_Comm_size");
  const auto check = [&](int code, const char* call) { check_mpi(code, rank_, size_, "start", call); };
  MPI_Comm host = MPI_COMM_NULL;
  check(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, rank_, MPI_INFO_NULL, &host), "MPI_Comm_split_type");
  check(MPI_Comm_rank(host, &local_rank_), "MPI_Comm_rank");
  check(MPI_Comm_size(host, &local_size_), "MPI_Comm_size");
  // Hosts are numbered by their lowest rank: an exclusive scan over "I am the first of my host", told to the others.
  int first = local_rank_ == 0 ? 1 : 0;
  int before = 0;
  check(MPI_Exscan(&first, &before, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD), "MPI_Exscan");
  node_ = rank_ == 0 ? 0 : before;
  check(MPI_Bcast(&node_, 1, MPI_INT, 0, host), "MPI_Bcast");
  check(MPI_Allreduce(&first, &nodes_, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD), "MPI_Allreduce");
  check(MPI_Comm_free(&host), "MPI_Comm_free");
}

MpiEnv::~MpiEnv() {
  if (engine_) engine_->stop();
  if (!owns_ || std::uncaught_exceptions() > unwinding_at_start_) return;
  int ended = 0;
  MPI_Finalized(&ended);
  if (ended == 0) MPI_Finalize();
}

void MpiEnv::abort(int status) noexcept {
  MPI_Abort(MPI_COMM_WORLD, status);
  std::_Exit(status);  // MPI_Abort does not promise not to return
}

}  // namespace tessera::comm
