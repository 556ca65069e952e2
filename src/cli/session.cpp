#include <cstdio>
#include <cstdlib>

#include "cli/command.hpp"
#include "tessera/comm/mpi.hpp"

namespace tessera::cli {

comm::MpiEnv& Session::mpi() {
  if (!mpi_) mpi_ = std::make_unique<comm::MpiEnv>(nullptr, nullptr);
  return *mpi_;
}

comm::Communicator& Session::world() {
  if (!world_) world_ = comm::make_mpi(mpi());
  return *world_;
}

Log Session::log() {
  return mpi_ ? Log(mpi_->rank(), mpi_->size()) : Log(launcher_rank(), 1);
}

void Session::close() {
  if (world_) world_->close();
  world_.reset();
  mpi_.reset();
}

int launcher_rank() noexcept {
  for (const char* name : {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID"}) {
    if (const char* value = std::getenv(name)) return std::atoi(value);
  }
  return 0;
}

bool parse(Options& options, const std::vector<std::string>& args) {
  const auto outcome = options.parse(args);
  if (outcome.help) {
    if (launcher_rank() == 0) std::fputs(options.help().c_str(), stdout);
    return false;
  }
  const Log log(launcher_rank(), 1);
  for (const auto& warning : outcome.warnings) {
    if (launcher_rank() == 0) log.warn("{}", warning);
  }
  return true;
}

}  // namespace tessera::cli
