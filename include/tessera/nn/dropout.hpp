#pragma once
/// Dropout whose mask is a pure function of (seed, step, sample key, site, element): the same on any number of ranks,
/// in any row of a batch, at any padding, and when a unit is recomputed.
#include <ATen/core/Tensor.h>

#include <string_view>

#include "tessera/nn/context.hpp"

namespace tessera::nn {

/// x [C, …] with row c named by ctx.sample_keys[c]; element j counts within the row, so the first T tokens of a row
/// have the same mask however far it is padded. Returns x itself when not training or p == 0. Throws RunError when
/// training with other than one key per row, RequestError for p outside [0, 1).
at::Tensor dropout(const at::Tensor& x, double p, std::string_view site, const ForwardContext& ctx);

/// The multiplier of dropout: 0 or 1/(1-p), shape of x, its dtype and device. Exposed for tests: `by_tensor_ops` forces
/// the form used on a GPU.
at::Tensor dropout_mask(const at::Tensor& x, double p, std::string_view site, const ForwardContext& ctx,
                        bool by_tensor_ops = false);

}  // namespace tessera::nn
