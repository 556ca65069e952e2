#pragma once
// Random bits of an element of a row, from the row's sample and the element's number in it: what dropout and noise are
// made of, natively on a CPU and by tensor operations on a GPU, with the same bits.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <cstdint>
#include <string_view>

#include "tessera/core/random.hpp"
#include "tessera/nn/context.hpp"

namespace tessera::nn {

inline constexpr int kKeyedBits = 24;  // exact in fp32

// One key per row of x. Throws RunError, naming `what`, when ctx has another number of them.
std::vector<std::uint64_t> row_keys(const at::Tensor& x, std::string_view what, std::string_view site,
                                    const ForwardContext& ctx);

// i64 [rows, elements of a row], each in [0, 2^24).
at::Tensor keyed_bits_by_tensor_ops(const at::Tensor& x, const std::vector<std::uint64_t>& keys);

// fp32 of x's shape, on the CPU: value_of(bits).
template <class ValueOf>
at::Tensor fill_by_keyed_bits(const at::Tensor& x, const std::vector<std::uint64_t>& keys, ValueOf value_of) {
  at::Tensor filled = at::empty(x.sizes(), at::kFloat);
  const std::int64_t width = keys.empty() ? 0 : x.numel() / static_cast<std::int64_t>(keys.size());
  float* out = filled.data_ptr<float>();
  for (const std::uint64_t key : keys) {
    const CounterStream stream(key);
    for (std::int64_t j = 0; j < width; ++j) {
      *out++ = value_of(stream.bits(static_cast<std::uint64_t>(j)) >> (64 - kKeyedBits));
    }
  }
  return filled;
}

}  // namespace tessera::nn
