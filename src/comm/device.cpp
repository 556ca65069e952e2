#include "tessera/comm/device.hpp"

#include <dlfcn.h>

#include "comm/cuda_plugin.hpp"
#include "tessera/comm/nccl.hpp"
#include "tessera/core/error.hpp"

namespace tessera::comm {

int gpu_count() noexcept {
  void* driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);  // stays loaded: closing a driver is asking for trouble
  if (driver == nullptr) return 0;
  const auto init = reinterpret_cast<int (*)(unsigned)>(dlsym(driver, "cuInit"));
  const auto count_devices = reinterpret_cast<int (*)(int*)>(dlsym(driver, "cuDeviceGetCount"));
  int count = 0;
  if (init == nullptr || count_devices == nullptr || init(0) != 0 || count_devices(&count) != 0) return 0;
  return count;
}

std::shared_ptr<Gpu> Gpu::open(int local_rank, int local_size) {
  const int count = gpu_count();
  if (count == 0) {
    throw RequestError("device: no GPU: the CUDA driver (libcuda.so.1) is missing or shows no device; use the CPU");
  }
  if (local_size > count) {
    throw RequestError(
        "device: {} ranks on a host with {} GPUs: NCCL needs a GPU for each rank; start {} ranks per host", local_size,
        count, count);
  }
  return std::shared_ptr<Gpu>(new Gpu(load_cuda_plugin(), local_rank));
}

Gpu::Gpu(std::shared_ptr<CudaPlugin> plugin, int index) : plugin_(std::move(plugin)), info_(plugin_->info(index)) {
  select();
}
Gpu::~Gpu() = default;

std::int64_t Gpu::free_bytes() const {
  return plugin_->free_bytes(info_.index);
}
void Gpu::select() const {
  plugin_->select(info_.index);
}
std::shared_ptr<void> Gpu::allocate(std::size_t bytes) const {
  return plugin_->allocate(info_.index, bytes);
}
void Gpu::upload(void* device, const void* host, std::size_t bytes) const {
  plugin_->upload(info_.index, device, host, bytes);
}
void Gpu::download(void* host, const void* device, std::size_t bytes) const {
  plugin_->download(info_.index, host, device, bytes);
}

std::unique_ptr<Communicator> make_nccl(const Gpu& gpu, Communicator& control, std::string_view name) {
  return gpu.plugin()->make_nccl(gpu.info().index, control, name);
}

}  // namespace tessera::comm
