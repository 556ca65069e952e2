#pragma once
/// What a decoder's positions may see: earlier ones, as far as they are not padded, within a window, at a distance that
/// ALiBi counts. Used with nn::attention.
///
/// Shapes: B rows, K keys (past ones first), T queries: the last T of the K positions; h heads.
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>

namespace tessera::nn {

struct CausalMask {
  std::optional<at::Tensor> bias;  ///< added to the scores: [B or 1, 1 or h, T, K]
  bool causal = false;             ///< without a bias: key j is seen by query i >= j
  /// Gradients are recorded and some query sees nothing. The fused kernels' backward is wrong there: it takes
  /// exp(score - logsumexp) for the probability, and the logarithm of the number of keys is lost beside the lowest
  /// value.
  bool blind = false;
  /// Of a blind mask, bool: where scores are replaced by the lowest value, which stops their gradient, instead of it
  /// being added to them. Undefined: it is added.
  at::Tensor replaced;
};

/// nn::attention under a mask; step by step where the mask is blind.
at::Tensor masked_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const CausalMask& mask,
                            std::optional<double> scale = std::nullopt);

/// mask: bool [B,K], false where padded; in host memory it spares a GPU the wait for what is asked of it. window: a
/// query sees itself and the window-1 positions before it; 0: all. Without padding, past or a window that is shorter
/// than K there is no bias. What is hidden has the dtype's lowest value (finite, so a row that sees nothing averages
/// all keys, as transformers' eager attention does).
CausalMask causal_mask(const at::Tensor& mask, std::int64_t queries, std::int64_t window,
                       const at::TensorOptions& options);

/// Whether each row of mask (bool [B,K], false where padded) is padded behind its last position alone. Then no position
/// that counts sees padding under a causal mask, and none is needed for it.
bool padded_on_the_right(const at::Tensor& mask);

/// Slopes of ALiBi, fp32 [h] on the CPU: 2^(-8 i/n) for i = 1…n; where h is no power of two, those of the next power of
/// two with even i, then those with odd i, the first h of them. Source: arXiv:2108.12409; MPT's order of heads.
at::Tensor alibi_slopes(std::int64_t heads);

/// The bias of causal attention with ALiBi, -slope * (i - j): always a bias. It differs from MPT's own -slope * (K-1-j)
/// by a constant per row, which softmax does not see, and stays small near the diagonal, so that bf16 holds it. Hidden
/// scores are replaced (transformers' MPT fills them in) where LLaMA's have the lowest value added.
CausalMask alibi_mask(const at::Tensor& mask, std::int64_t queries, std::int64_t heads,
                      const at::TensorOptions& options);

}  // namespace tessera::nn
