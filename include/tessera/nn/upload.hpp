#pragma once
/// upload: small tensors from host memory to where a model computes.
///
/// A GPU is not waited for: CUDA takes memory that is not pinned aside before the call returns, and pinned memory is
/// kept by LibTorch's allocator until the copy is done, so that the tensor may be changed or given up at once. Source:
/// CUDA Runtime API, "API synchronization behavior" (cudaMemcpyAsync).
#include <ATen/core/Tensor.h>

namespace tessera::nn {

/// t on `device`, in the same type; t itself where it is there already. Towards the host it waits for the values.
inline at::Tensor upload(const at::Tensor& t, c10::Device device) {
  return t.to(device, t.scalar_type(), /*non_blocking=*/t.is_cpu());
}

}  // namespace tessera::nn
