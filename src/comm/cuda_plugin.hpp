#pragma once
/// What libtessera_cuda.so offers to the program that loads it.
#include <memory>
#include <string_view>

#include "tessera/comm/communicator.hpp"
#include "tessera/comm/device.hpp"

namespace tessera::comm {

/// Raised whenever this class, Communicator or FlightRing changes; the loader refuses another one.
inline constexpr int kCudaPluginVersion = 2;

class CudaPlugin {
 public:
  virtual ~CudaPlugin() = default;
  virtual GpuInfo info(int index) = 0;
  virtual void select(int index) = 0;
  virtual std::int64_t free_bytes(int index) = 0;
  virtual std::shared_ptr<void> allocate(int index, std::size_t bytes) = 0;
  virtual void upload(int index, void* device, const void* host, std::size_t bytes) = 0;
  virtual void download(int index, void* host, const void* device, std::size_t bytes) = 0;
  virtual std::unique_ptr<Communicator> make_nccl(int index, Communicator& control, std::string_view name) = 0;
};

/// Loads the library beside the program. Throws RequestError with what the loader said.
std::shared_ptr<CudaPlugin> load_cuda_plugin();

}  // namespace tessera::comm

// The library's two symbols.
extern "C" int tessera_cuda_plugin_version();
extern "C" tessera::comm::CudaPlugin* tessera_cuda_plugin_make();
