#include <dlfcn.h>

#include <filesystem>

#include "comm/cuda_plugin.hpp"
#include "tessera/core/error.hpp"

namespace tessera::comm {

bool built_with_cuda() noexcept {
  return true;
}

std::shared_ptr<CudaPlugin> load_cuda_plugin() {
  namespace fs = std::filesystem;
  std::error_code ignored;
  const fs::path program = fs::read_symlink("/proc/self/exe", ignored);
  fs::path library = program.parent_path() / "libtessera_cuda.so";
  if (!fs::exists(library, ignored)) library = program.parent_path().parent_path() / "lib" / "libtessera_cuda.so";
  // Never closed: LibTorch's CUDA libraries register their kernels for good. Global, so that what they share is found.
  void* handle = dlopen(library.c_str(), RTLD_NOW | RTLD_GLOBAL);
  if (handle == nullptr) {
    throw RequestError("device: the CUDA parts do not load: {}; build the target tessera_cuda_plugin, or use the CPU",
                       dlerror());
  }
  const auto version =
      reinterpret_cast<decltype(&tessera_cuda_plugin_version)>(dlsym(handle, "tessera_cuda_plugin_version"));
  const auto make = reinterpret_cast<decltype(&tessera_cuda_plugin_make)>(dlsym(handle, "tessera_cuda_plugin_make"));
  if (version == nullptr || make == nullptr || version() != kCudaPluginVersion) {
    throw RequestError("device: '{}' belongs to another build of this program: build both together", library.string());
  }
  return std::shared_ptr<CudaPlugin>(make());
}

}  // namespace tessera::comm
