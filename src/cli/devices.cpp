#include "cli/devices.hpp"

#include "tessera/comm/nccl.hpp"
#include "tessera/core/error.hpp"

namespace tessera::cli {

Devices::Devices(Session& session, const std::string& precision) : precision_(precision) {
  const auto& mpi = session.mpi();
  if (comm::built_with_cuda() && comm::gpu_count() > 0) {
    gpu_ = comm::Gpu::open(mpi.local_rank(), mpi.local_size());
    device_ = c10::Device(c10::DeviceType::CUDA, static_cast<c10::DeviceIndex>(gpu_->info().index));
    gather_ = comm::make_nccl(*gpu_, session.world(), "gather");
    reduce_ = comm::make_nccl(*gpu_, session.world(), "reduce");
    fabric_ = {&session.world(), gather_.get(), reduce_.get()};
    if (precision_.empty()) precision_ = gpu_->info().major >= 8 ? "bf16" : "fp16";
    session.log().info("GPU {}: {}, {:.1f} GiB, NCCL {}", gpu_->info().index, gpu_->info().name,
                       static_cast<double>(gpu_->info().total_bytes) / (1 << 30), gpu_->info().nccl_version);
    return;
  }
  fabric_ = comm::Fabric::on_host(session.world());
  if (precision_.empty()) precision_ = "fp32";
  if (precision_ != "fp32") {
    session.log().warn("--precision {} is emulated on these CPUs, about ninety times slower than fp32", precision_);
  }
}

void Devices::close() {
  if (reduce_) reduce_->close();
  if (gather_) gather_->close();
  reduce_.reset();
  gather_.reset();
}

}  // namespace tessera::cli
