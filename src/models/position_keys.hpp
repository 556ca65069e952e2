#pragma once
// Keys of chosen positions, where what were rows of a batch has become rows of positions.
#include <ATen/core/Tensor.h>

#include <cstdint>

#include "tessera/core/random.hpp"
#include "tessera/nn/context.hpp"

namespace tessera::models {

// ctx for positions, i64 [n] of the flattened [B*T]: an adapter's dropout goes by the rows it is given, so each
// position has a key of its own.
inline nn::ForwardContext keyed_by_position(const nn::ForwardContext& ctx, const at::Tensor& positions,
                                            std::int64_t length) {
  nn::ForwardContext out = ctx;
  if (!ctx.training || ctx.sample_keys.empty()) return out;
  const at::Tensor chosen = positions.to(at::kCPU).contiguous();
  const auto* position = chosen.const_data_ptr<std::int64_t>();
  out.sample_keys.clear();
  for (std::int64_t i = 0; i < chosen.numel(); ++i) {
    const auto row = static_cast<std::size_t>(position[i] / length);
    out.sample_keys.push_back(mix_keys(ctx.sample_keys.at(row), position[i] % length));
  }
  return out;
}

}  // namespace tessera::models
