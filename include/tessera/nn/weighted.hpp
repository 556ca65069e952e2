#pragma once
/// Operations on weights whose gradients are made for large weights: where a weight (a leaf) already has a gradient, as
/// under the ZeRO-3 engine, its new gradient is added to it in place by the matrix product itself, without a temporary
/// of the weight's size and without another pass over it. Otherwise, and under create_graph or autograd::grad, the
/// gradient goes the usual way.
///
/// Shapes: n rows, D features, V classes.
#include <ATen/core/Tensor.h>

#include <optional>

#include "tessera/nn/param.hpp"

namespace tessera::nn {

/// x W^T + b. x [..., in], weight [out, in], bias [out].
at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias);
/// The same shape and gradients, and zeros for values: the product is left out.
at::Tensor linear_without_value(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias);

/// Rows `ids` (i64 [...]) of weight [V, D]: [..., D]. On a CPU the gradient touches the rows that were used alone.
at::Tensor embedding(const at::Tensor& weight, const at::Tensor& ids);

/// Sum over the rows of the cross-entropy of softmax(x W^T) against targets, in fp32: what
/// cross_entropy(linear(x, weight), targets, sum) is, without its [n, V] temporaries. Logits exist for a chunk of rows
/// at a time; gradients with respect to them are formed in forward. What backward needs is [n, D] for a frozen weight,
/// and the smaller of [n, V] and [V, D] besides for a trained one. x [n, D], weight [V, D], targets i64 [n] in [0, V).
/// 0 for n = 0. smoothing e in [0, 1): the targets are 1 - e + e / V at the target and e / V elsewhere, as
/// cross_entropy's label_smoothing has it.
at::Tensor linear_cross_entropy_sum(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& targets,
                                    double smoothing = 0);

/// The three for a frozen matrix whose rows are visited (ParamState::visit_rows), so that it need not be whole
/// anywhere. They do the same whether it is whole or not, to the last bit where blocks hold a multiple of kRowsAtOnce
/// rows.
inline constexpr std::int64_t kRowsAtOnce = 4096;
at::Tensor embedding_by_rows(const ParamState& weight, const at::Tensor& ids);
/// x W^T; not differentiable where the weight is not whole.
at::Tensor linear_by_rows(const at::Tensor& x, const ParamState& weight);
/// Softmax and gradient are accumulated over blocks of classes under a running maximum, as attention is in
/// arXiv:2205.14135: memory is [n, D] and the logits of a chunk, and the rows are visited once for loss and gradient.
at::Tensor linear_cross_entropy_sum_by_rows(const at::Tensor& x, const ParamState& weight, const at::Tensor& targets,
                                            double smoothing = 0);

}  // namespace tessera::nn
