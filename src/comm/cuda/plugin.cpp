#include <c10/cuda/CUDAStream.h>

#include "comm/cuda/handles.hpp"
#include "comm/cuda/nccl_communicator.hpp"
#include "comm/cuda_plugin.hpp"

namespace tessera::comm {
namespace {

class Plugin final : public CudaPlugin {
 public:
  GpuInfo info(int index) override {
    cudaDeviceProp properties{};
    check_cuda(cudaGetDeviceProperties(&properties, index), "device", "cudaGetDeviceProperties");
    GpuInfo info;
    info.index = index;
    info.name = properties.name;
    info.major = properties.major;
    info.minor = properties.minor;
    info.total_bytes = static_cast<std::int64_t>(properties.totalGlobalMem);
    check_cuda(cudaDriverGetVersion(&info.driver_version), "device", "cudaDriverGetVersion");
    check_cuda(cudaRuntimeGetVersion(&info.runtime_version), "device", "cudaRuntimeGetVersion");
    if (const ncclResult_t code = ncclGetVersion(&info.nccl_version); code != ncclSuccess) {
      throw CommError("nccl: ncclGetVersion says {}", ncclGetErrorString(code));
    }
    return info;
  }

  void select(int index) override { check_cuda(cudaSetDevice(index), "device", "cudaSetDevice"); }

  std::int64_t free_bytes(int index) override {
    const DeviceScope scope(index);
    std::size_t free = 0;
    std::size_t total = 0;
    check_cuda(cudaMemGetInfo(&free, &total), "device", "cudaMemGetInfo");
    return static_cast<std::int64_t>(free);
  }

  std::shared_ptr<void> allocate(int index, std::size_t bytes) override {
    const DeviceScope scope(index);
    void* data = nullptr;
    if (const cudaError_t code = cudaMalloc(&data, bytes == 0 ? 1 : bytes); code != cudaSuccess) {
      cudaGetLastError();
      throw RunError("cuda: GPU {}: {} bytes wanted, {} free: {}", index, bytes, free_bytes(index),
                     cudaGetErrorString(code));
    }
    return {data, [](void* p) { cudaFree(p); }};
  }

  void upload(int index, void* device, const void* host, std::size_t bytes) override {
    copy(index, device, host, bytes, cudaMemcpyHostToDevice);
  }
  void download(int index, void* host, const void* device, std::size_t bytes) override {
    copy(index, host, device, bytes, cudaMemcpyDeviceToHost);
  }

  std::unique_ptr<Communicator> make_nccl(int index, Communicator& control, std::string_view name) override {
    return start_nccl(index, control, name);
  }

 private:
  static void copy(int index, void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
    if (bytes == 0) return;
    const DeviceScope scope(index);
    const cudaStream_t stream = c10::cuda::getCurrentCUDAStream(static_cast<c10::DeviceIndex>(index)).stream();
    check_cuda(cudaMemcpyAsync(to, from, bytes, kind, stream), "copy", "cudaMemcpyAsync");
    check_cuda(cudaStreamSynchronize(stream), "copy", "cudaStreamSynchronize");
  }
};

}  // namespace
}  // namespace tessera::comm

extern "C" int tessera_cuda_plugin_version() {
  return tessera::comm::kCudaPluginVersion;
}
extern "C" tessera::comm::CudaPlugin* tessera_cuda_plugin_make() {
  return new tessera::comm::Plugin;
}
