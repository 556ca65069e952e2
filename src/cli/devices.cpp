#include "cli/devices.hpp"

#include <cstdio>
#include <sstream>

#include "tessera/comm/flight.hpp"
#include "tessera/core/error.hpp"

namespace tessera::cli {
namespace {

// A GPU anywhere in the job means that all ranks shall have one: a CPU beside it would be a silent crawl.
std::string device_word(comm::Communicator& world) {
  std::int64_t found = comm::built_with_cuda() && comm::gpu_count() > 0 ? 1 : 0;
  world.all_reduce({&found, 1, comm::DType::i64}, comm::ReduceOp::max);
  return found != 0 ? "cuda" : "cpu";
}

}  // namespace

Devices::Devices(Session& session, const std::string& precision, bool check_schedule) : precision_(precision) {
  transports_ = std::make_unique<comm::Transports>(
      session.mpi(), comm::TransportOptions{.device = device_word(session.world()), .check_schedule = check_schedule});
  if (!transports_->warning().empty()) session.log().warn("{}", transports_->warning());
  if (const comm::Gpu* gpu = transports_->gpu()) {
    const auto& info = gpu->info();
    device_ = c10::Device(c10::DeviceType::CUDA, static_cast<c10::DeviceIndex>(info.index));
    if (precision_.empty()) precision_ = info.major >= 8 ? "bf16" : "fp16";
    session.log().info("GPU {}: {}, {:.1f} GiB, NCCL {}", info.index, info.name,
                       static_cast<double>(info.total_bytes) / (1 << 30), info.nccl_version);
    return;
  }
  if (precision_.empty()) precision_ = "fp32";
  if (precision_ != "fp32") {
    session.log().warn("--precision {} is emulated on these CPUs, about ninety times slower than fp32", precision_);
  }
}

void Devices::watch(Session& session, double limit_s) {
  comm::WatchdogOptions options;
  options.limit = std::chrono::duration<double>(limit_s);
  watchdog_ = std::make_unique<comm::Watchdog>(session.mpi(), options, [&session](const std::string& report) {
    auto& mpi = session.mpi();
    std::ostringstream flight;
    mpi.flight()->dump(flight, 24);
    std::fprintf(stderr, "error: %s\n  (--comm_timeout_s sets the limit) last collectives of rank %d:\n%s",
                 report.c_str(), mpi.rank(), flight.str().c_str());
    std::fflush(nullptr);
    mpi.abort(static_cast<int>(ExitStatus::failed));
  });
}

void Devices::close() {
  watchdog_.reset();
  transports_->close();
}

}  // namespace tessera::cli
