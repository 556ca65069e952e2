// Stands for cuda_loader.cpp in a build without CUDA.
#include "comm/cuda_plugin.hpp"
#include "tessera/core/error.hpp"

namespace tessera::comm {

bool built_with_cuda() noexcept {
  return false;
}

std::shared_ptr<CudaPlugin> load_cuda_plugin() {
  throw RequestError("device: this program was built without CUDA: configure with -DTESSERA_CUDA=ON, or use the CPU");
}

}  // namespace tessera::comm
