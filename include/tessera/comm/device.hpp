#pragma once
/// Device: the GPUs of this host, found without linking anything of CUDA.
///
/// All code that needs CUDA lies in `libtessera_cuda.so` beside the program. It is loaded, and LibTorch's CUDA
/// libraries (gigabytes) with it, only by Gpu::open(), so a run on a CPU neither needs nor loads them. Open the GPU
/// before the first LibTorch call: LibTorch decides once, at its first look, whether it has CUDA.
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

namespace tessera::comm {

class Communicator;
class CudaPlugin;  // private: what libtessera_cuda.so offers

/// GPUs the driver shows to this process (CUDA_VISIBLE_DEVICES obeyed); 0 without a driver. Loads the driver alone.
int gpu_count() noexcept;

/// Whether this build has the CUDA parts at all.
bool built_with_cuda() noexcept;

struct GpuInfo {
  int index = 0;
  std::string name;
  int major = 0, minor = 0;  ///< compute capability
  std::int64_t total_bytes = 0;
  int driver_version = 0, runtime_version = 0;  ///< 13000 is 13.0
  int nccl_version = 0;                         ///< 22809 is 2.28.9
};

class Gpu {
 public:
  /// Takes GPU `local_rank` of this host, makes it the calling thread's current device and loads the CUDA parts.
  /// Throws RequestError: no GPU, fewer GPUs than ranks on this host, a build without CUDA, a library that does not
  /// load.
  static std::shared_ptr<Gpu> open(int local_rank, int local_size);
  ~Gpu();

  const GpuInfo& info() const noexcept { return info_; }
  std::int64_t free_bytes() const;
  /// Makes this GPU the calling thread's current device; a thread of its own starts on GPU 0.
  void select() const;
  /// Device memory, freed with the last copy of the pointer. Throws RunError with the free and the wanted bytes.
  std::shared_ptr<void> allocate(std::size_t bytes) const;
  /// Blocking copies, in the order of the thread's current stream.
  void upload(void* device, const void* host, std::size_t bytes) const;
  void download(void* host, const void* device, std::size_t bytes) const;

  const std::shared_ptr<CudaPlugin>& plugin() const noexcept { return plugin_; }  // for make_nccl

 private:
  explicit Gpu(std::shared_ptr<CudaPlugin> plugin, int index);

  std::shared_ptr<CudaPlugin> plugin_;
  GpuInfo info_;
};

}  // namespace tessera::comm
