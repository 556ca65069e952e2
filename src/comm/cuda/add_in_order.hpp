#pragma once
// Also read by nvcc as C++17, so nothing of the other headers is here.
#include <cuda_runtime_api.h>

#include <cstdint>

namespace tessera::comm {

/// acc[i] = ((acc[i] + term_0[i]) + term_1[i]) + … for i in [0, n): term `rank` is `own`, the other `size` - 1 lie one
/// behind the other in `others`, in the order of ranks. All on the device; put on `stream`. T is float, double or
/// unsigned long long (whose sums wrap around, as those of i64).
template <class T>
cudaError_t add_in_order(T* acc, const T* own, const T* others, std::int64_t n, int size, int rank,
                         cudaStream_t stream);

extern template cudaError_t add_in_order(float*, const float*, const float*, std::int64_t, int, int, cudaStream_t);
extern template cudaError_t add_in_order(double*, const double*, const double*, std::int64_t, int, int, cudaStream_t);
extern template cudaError_t add_in_order(unsigned long long*, const unsigned long long*, const unsigned long long*,
                                         std::int64_t, int, int, cudaStream_t);

}  // namespace tessera::comm
