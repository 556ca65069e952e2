#pragma once
/// Noise that is a pure function of (seed, step, sample key, site, element), as the masks of dropout.hpp are: the same
/// on any number of ranks, in any row of a batch, at any padding on the right.
#include <ATen/core/Tensor.h>

#include <string_view>

#include "tessera/nn/context.hpp"

namespace tessera::nn {

/// Values uniform in [-1, 1), of x's shape, dtype and device. x [C, …] with row c named by ctx.sample_keys[c]; element
/// j counts within the row. Not differentiable. Throws RunError with other than one key per row. `by_tensor_ops` forces
/// the form used on a GPU, for tests.
at::Tensor uniform_noise(const at::Tensor& x, std::string_view site, const ForwardContext& ctx,
                         bool by_tensor_ops = false);

/// NEFTune: x [B, L, D] with noise added to it, uniform in +-alpha / sqrt(positions_b D) in row b. positions [B]: how
/// many positions a row has. Returns x itself when not training or alpha is 0.
/// Source: Jain et al., arXiv:2310.05914, algorithm 1.
at::Tensor with_embedding_noise(const at::Tensor& x, const at::Tensor& positions, double alpha, std::string_view site,
                                const ForwardContext& ctx);

}  // namespace tessera::nn
