#include "tessera/nn/functional.hpp"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/silu.h>

#include "tessera/core/error.hpp"

namespace tessera::nn {

at::Tensor quick_gelu(const at::Tensor& x) {
  return x * at::sigmoid(x * 1.702);
}

at::Tensor activate(Activation kind, const at::Tensor& x) {
  switch (kind) {
    case Activation::relu:
      return at::relu(x);
    case Activation::gelu:
      return at::gelu(x);
    case Activation::gelu_tanh:
      return at::gelu(x, "tanh");
    case Activation::quick_gelu:
      return quick_gelu(x);
    case Activation::silu:
      return at::silu(x);
  }
  throw RunError("nn: unknown activation");
}

Activation activation_from_name(const std::string& name) {
  if (name == "relu") return Activation::relu;
  if (name == "gelu") return Activation::gelu;
  if (name == "gelu_new" || name == "gelu_pytorch_tanh") return Activation::gelu_tanh;
  if (name == "quick_gelu") return Activation::quick_gelu;
  if (name == "silu" || name == "swish") return Activation::silu;
  throw RequestError(
      "config.json: hidden_act '{}' is not known; known are relu, gelu, gelu_pytorch_tanh, quick_gelu, silu", name);
}

at::Tensor split_heads(const at::Tensor& x, std::int64_t heads) {
  return x.view({x.size(0), x.size(1), heads, x.size(2) / heads}).transpose(1, 2);
}

at::Tensor merge_heads(const at::Tensor& x) {
  const at::Tensor rows = x.transpose(1, 2);
  return rows.reshape({rows.size(0), rows.size(1), rows.size(2) * rows.size(3)});
}

namespace {

/// Repeats each key-value head for the query heads that share it.
at::Tensor repeat_heads(const at::Tensor& x, std::int64_t heads) {
  const std::int64_t times = heads / x.size(1);
  if (times == 1) return x;
  return x.unsqueeze(2)
      .expand({x.size(0), x.size(1), times, x.size(2), x.size(3)})
      .reshape({x.size(0), heads, x.size(2), x.size(3)});
}

}  // namespace

at::Tensor attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                     const std::optional<at::Tensor>& bias, bool causal, std::optional<double> scale) {
  const std::int64_t heads = q.size(1);
  if (q.numel() == 0 || k.size(2) == 0) {
    // Kernels differ in what they accept when a batch is empty; the composite keeps the graph connected.
    return at::matmul(at::matmul(q, repeat_heads(k, heads).transpose(-2, -1)), repeat_heads(v, heads));
  }
  return at::scaled_dot_product_attention(q, repeat_heads(k, heads), repeat_heads(v, heads), bias, 0.0,
                                          causal && !bias.has_value(), scale);
}

at::Tensor apply_rope(const at::Tensor& x, const RopeTables& tables) {
  const std::int64_t half = x.size(-1) / 2;
  const at::Tensor rotated = at::cat({-x.narrow(-1, half, half), x.narrow(-1, 0, half)}, -1);
  return x * tables.cos + rotated * tables.sin;
}

}  // namespace tessera::nn
