#include "comm/cuda/add_in_order.hpp"

#include <algorithm>

namespace tessera::comm {
namespace {

template <class T>
__global__ void add(T* acc, const T* own, const T* others, std::int64_t n, int size, int rank) {
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += step) {
    T sum = acc[i];
    for (int r = 0; r < size; ++r) sum += r == rank ? own[i] : others[(r < rank ? r : r - 1) * n + i];
    acc[i] = sum;
  }
}

}  // namespace

template <class T>
cudaError_t add_in_order(T* acc, const T* own, const T* others, std::int64_t n, int size, int rank,
                         cudaStream_t stream) {
  if (n == 0) return cudaSuccess;
  constexpr int kThreads = 256;
  constexpr std::int64_t kMostBlocks = 1024;
  const auto blocks = static_cast<unsigned>(std::min((n + kThreads - 1) / kThreads, kMostBlocks));
  add<T><<<blocks, kThreads, 0, stream>>>(acc, own, others, n, size, rank);
  return cudaGetLastError();
}

template cudaError_t add_in_order(float*, const float*, const float*, std::int64_t, int, int, cudaStream_t);
template cudaError_t add_in_order(double*, const double*, const double*, std::int64_t, int, int, cudaStream_t);
template cudaError_t add_in_order(unsigned long long*, const unsigned long long*, const unsigned long long*,
                                  std::int64_t, int, int, cudaStream_t);

}  // namespace tessera::comm
