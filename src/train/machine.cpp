#include "tessera/train/machine.hpp"

#include <ATen/ops/mm.h>
#include <ATen/ops/ones.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <functional>

#include "tessera/core/memory.hpp"

namespace tessera::train {

namespace {

using Clock = std::chrono::steady_clock;

constexpr double kReserve = 0.1;  // of what is free: fragments, file cache, other programs

at::ScalarType scalar(shard::ComputeType type) {
  if (type == shard::ComputeType::bf16) return at::kBFloat16;
  return type == shard::ComputeType::f16 ? at::kHalf : at::kFloat;
}

// Seconds of one call: the best of a few rounds, each ended by `settle`, which waits for the device.
double best_seconds(int rounds, const std::function<void()>& work) {
  double best = 1e30;
  work();
  for (int i = 0; i < rounds; ++i) {
    const auto start = Clock::now();
    work();
    best = std::min(best, std::chrono::duration<double>(Clock::now() - start).count());
  }
  return std::max(best, 1e-9);
}

double slowest(const comm::Fabric& fabric, double seconds) {
  fabric.control->all_reduce({&seconds, 1, comm::DType::f64}, comm::ReduceOp::max);
  return seconds;
}

double gather_gbs(comm::Communicator& comm, const comm::Fabric& fabric, c10::Device device) {
  constexpr std::int64_t kSlice = std::int64_t{1} << 20;  // fp32 elements
  const at::Tensor full = at::ones({kSlice * comm.size()}, at::TensorOptions().device(device));
  const at::Tensor mine = full.narrow(0, kSlice * comm.rank(), kSlice);
  const double seconds = best_seconds(3, [&] {
    comm.all_gather({mine.const_data_ptr(), kSlice, comm::DType::f32},
                    {full.mutable_data_ptr(), full.numel(), comm::DType::f32});
    if (!device.is_cpu()) full.narrow(0, 0, 1).item<float>();  // waits for the device
  });
  return static_cast<double>(4 * kSlice * (comm.size() - 1)) / slowest(fabric, seconds) / 1e9;
}

}  // namespace

std::int64_t memory_in_use(c10::Device device) {
  if (!device.is_cpu()) {
    const auto stats = c10::getDeviceAllocator(device.type())->getDeviceStats(device.index());
    return stats.reserved_bytes[0].current;
  }
  std::ifstream in("/proc/self/statm");
  std::int64_t size = 0, resident = 0;
  return in >> size >> resident ? resident * static_cast<std::int64_t>(sysconf(_SC_PAGESIZE)) : 0;
}

std::int64_t peak_memory_in_use(c10::Device device) {
  if (device.is_cpu()) return peak_memory_bytes();
  return c10::getDeviceAllocator(device.type())->getDeviceStats(device.index()).reserved_bytes[0].peak;
}

shard::MachineRates measure_rates(const comm::Fabric& fabric, c10::Device device, shard::ComputeType compute) {
  const auto options = at::TensorOptions().device(device);
  const std::int64_t side = device.is_cpu() ? 512 : 4096;
  shard::MachineRates rates;
  {
    const at::Tensor a = at::ones({side, side}, options.dtype(scalar(compute)));
    const double seconds = best_seconds(4, [&] {
      const at::Tensor product = at::mm(a, a);
      if (!device.is_cpu()) product.narrow(0, 0, 1).narrow(1, 0, 1).item<float>();
    });
    rates.tflops = 2.0 * static_cast<double>(side * side * side) / slowest(fabric, seconds) / 1e12;
  }
  {
    const std::int64_t count = std::int64_t{device.is_cpu() ? 4 : 64} << 20;
    at::Tensor a = at::ones({count}, options);
    const double seconds = best_seconds(3, [&] {
      a.mul_(1.0);
      if (!device.is_cpu()) a.narrow(0, 0, 1).item<float>();
    });
    rates.memory_gbs = static_cast<double>(8 * count) / slowest(fabric, seconds) / 1e9;
  }
  rates.overlap = !device.is_cpu();
  rates.host_link_gbs = 20;  // a GPU's 16 lanes of PCIe 4; not measured
  if (fabric.size() == 1) return rates;
  rates.link_gbs = rates.node_link_gbs = gather_gbs(*fabric.gather, fabric, device);
  if (fabric.node_gather != nullptr && fabric.node_size() > 1) {
    rates.node_link_gbs = gather_gbs(*fabric.node_gather, fabric, device);
  }
  return rates;
}

std::optional<MemoryLimits> measure_memory(const comm::Fabric& fabric, c10::Device device) {
  MemoryLimits limits;
  limits.baseline = memory_in_use(device);
  std::int64_t free = 0;
  if (device.is_cpu()) {
    free = available_memory_bytes();
    if (free >= 0) free /= fabric.node_size();
  } else {
    free = static_cast<std::int64_t>(c10::getDeviceAllocator(device.type())->getMemoryInfo(device.index()).first);
  }
  fabric.control->all_reduce({&free, 1, comm::DType::i64}, comm::ReduceOp::min);
  fabric.control->all_reduce({&limits.baseline, 1, comm::DType::i64}, comm::ReduceOp::max);
  if (free < 0) return std::nullopt;
  limits.budget = limits.baseline + static_cast<std::int64_t>((1.0 - kReserve) * static_cast<double>(free));
  return limits;
}

}  // namespace tessera::train
