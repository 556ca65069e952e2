#pragma once
/// Owners of CUDA's handles, and the checks of its and NCCL's return codes.
#include <cuda_runtime_api.h>
#include <nccl.h>

#include <string_view>
#include <utility>

#include "tessera/core/error.hpp"

namespace tessera::comm {

inline void check_cuda(cudaError_t code, std::string_view what, std::string_view call) {
  if (code == cudaSuccess) return;
  cudaGetLastError();  // a later call must not meet this error again
  throw CommError("cuda: {}: {} says {} ({})", what, call, cudaGetErrorString(code), cudaGetErrorName(code));
}

/// A handle that is freed by this process alone.
template <class Traits>
class CudaHandle {
 public:
  using Native = typename Traits::Native;
  CudaHandle() = default;
  explicit CudaHandle(Native native) noexcept : native_(native) {}
  CudaHandle(CudaHandle&& other) noexcept : native_(std::exchange(other.native_, nullptr)) {}
  CudaHandle& operator=(CudaHandle other) noexcept {
    std::swap(native_, other.native_);
    return *this;
  }
  ~CudaHandle() {
    if (native_ != nullptr) Traits::close(native_);
  }
  Native get() const noexcept { return native_; }

 private:
  Native native_ = nullptr;
};

struct StreamTraits {
  using Native = cudaStream_t;
  static void close(Native stream) noexcept { cudaStreamDestroy(stream); }
};
struct EventTraits {
  using Native = cudaEvent_t;
  static void close(Native event) noexcept { cudaEventDestroy(event); }
};
using Stream = CudaHandle<StreamTraits>;
using Event = CudaHandle<EventTraits>;

/// Of the highest priority the device has, and apart from the legacy default stream.
inline Stream make_priority_stream() {
  int least = 0;
  int greatest = 0;
  check_cuda(cudaDeviceGetStreamPriorityRange(&least, &greatest), "streams", "cudaDeviceGetStreamPriorityRange");
  cudaStream_t stream = nullptr;
  check_cuda(cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking, greatest), "streams",
             "cudaStreamCreateWithPriority");
  return Stream(stream);
}

inline Event make_event() {
  cudaEvent_t event = nullptr;
  check_cuda(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "events", "cudaEventCreateWithFlags");
  return Event(event);
}

/// Makes a device current for a scope.
class DeviceScope {
 public:
  explicit DeviceScope(int device) {
    check_cuda(cudaGetDevice(&before_), "device", "cudaGetDevice");
    check_cuda(cudaSetDevice(device), "device", "cudaSetDevice");
  }
  ~DeviceScope() { cudaSetDevice(before_); }
  DeviceScope(const DeviceScope&) = delete;
  DeviceScope& operator=(const DeviceScope&) = delete;

 private:
  int before_ = 0;
};

}  // namespace tessera::comm
