#pragma once
/// Layers: small objects that hold handles to weights and compute with whatever is bound to them when called.
/// Calling a layer whose unit is not gathered throws RunError (see ParamState::value).
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "tessera/nn/context.hpp"
#include "tessera/nn/param.hpp"

namespace tessera::nn {

/// What sits on a layer beside its weight (LoRA and its kin).
class LayerAdapter {
 public:
  virtual ~LayerAdapter() = default;
  /// x is the layer's input (of a linear layer [..., in], of an embedding ids, of a convolution [B, in, H, W]), base
  /// what it returns without the adapter. Returns what the layer returns.
  virtual at::Tensor apply(const at::Tensor& x, const at::Tensor& base, const ForwardContext& ctx) const = 0;
};

struct ConvShape {
  std::int64_t in = 0;
  std::int64_t out = 0;
  std::int64_t kernel = 1;
  std::int64_t stride = 1;
  std::int64_t padding = 0;
  bool bias = true;
};

enum class LayerKind : std::uint8_t { linear, embedding, conv2d };

/// The shared part of a layer: what ModelLayout::layers() lists, so that adapters find their targets.
struct LayerState {
  std::string name;  ///< full, without ".weight": "model.layers.3.self_attn.q_proj"
  LayerKind kind = LayerKind::linear;
  std::int64_t in = 0;   ///< of an embedding the number of its rows, of a convolution its input channels
  std::int64_t out = 0;  ///< of an embedding the length of its rows
  ConvShape conv;        ///< of a convolution
  Param weight;          ///< [out, in]; of an embedding [in, out], of a convolution [out, in, kernel, kernel]
  Param bias;            ///< [out] or null
  /// Of a linear layer whose weight is LLM.int8()'s: its input is quantised as int8_input does.
  std::optional<double> int8_threshold;
  std::shared_ptr<const LayerAdapter> adapter;
};

/// y = x W^T + b, then the adapter, which sees x as it came, if there is one. Copies share one state.
class Linear {
 public:
  Linear() = default;
  /// Default initialisation is PyTorch's: uniform with bound 1/sqrt(in) for weight and bias.
  Linear(const Scope& scope, std::string_view name, std::int64_t in, std::int64_t out, bool bias);
  /// Weight by `weight_init`, bias zero.
  Linear(const Scope& scope, std::string_view name, std::int64_t in, std::int64_t out, bool bias, Init weight_init);
  at::Tensor operator()(const at::Tensor& x, const ForwardContext& ctx) const;
  /// Its graph for a recomputation in which nobody reads the output: zeros for values, without the product. Under an
  /// adapter, which may look at the values, it is operator().
  at::Tensor without_value(const at::Tensor& x, const ForwardContext& ctx) const;
  /// Sum of the cross-entropies in fp32 of this layer's output as logits, without keeping them where nothing is added
  /// to the plain product (weighted.hpp, also for `smoothing`). x [n, in], targets i64 [n].
  at::Tensor cross_entropy_sum(const at::Tensor& x, const at::Tensor& targets, const ForwardContext& ctx,
                               double smoothing = 0) const;
  const LayerState& state() const { return *state_; }
  bool adapted() const { return state_->adapter != nullptr; }
  /// A layer whose weight is another layer's (tied embeddings).
  static Linear tied(std::string name, Param weight);

 private:
  std::shared_ptr<LayerState> state_;
};

class Embedding {
 public:
  Embedding() = default;
  Embedding(const Scope& scope, std::string_view name, std::int64_t count, std::int64_t dim, Init init);
  at::Tensor operator()(const at::Tensor& ids) const;  ///< i64 [...] to [..., dim]; ids may lie in host memory
  const Param& weight() const { return state_->weight; }

 private:
  std::shared_ptr<LayerState> state_;
};

/// Over the last dimension, with weight and bias.
class LayerNorm {
 public:
  LayerNorm() = default;
  LayerNorm(const Scope& scope, std::string_view name, std::int64_t dim, double eps);
  at::Tensor operator()(const at::Tensor& x) const;

 private:
  Param weight_;
  Param bias_;
  double eps_ = 0;
};

/// x / sqrt(mean(x^2) + eps) * weight, statistics in fp32.
class RmsNorm {
 public:
  RmsNorm() = default;
  RmsNorm(const Scope& scope, std::string_view name, std::int64_t dim, double eps);
  at::Tensor operator()(const at::Tensor& x) const;

 private:
  Param weight_;
  double eps_ = 0;
};

/// LayerNorm over the channels of [B,C,H,W] (SAM).
class LayerNorm2d {
 public:
  LayerNorm2d() = default;
  LayerNorm2d(const Scope& scope, std::string_view name, std::int64_t channels, double eps);
  at::Tensor operator()(const at::Tensor& x) const;

 private:
  Param weight_;
  Param bias_;
  double eps_ = 0;
};

class Conv2d {
 public:
  Conv2d() = default;
  Conv2d(const Scope& scope, std::string_view name, ConvShape shape);
  Conv2d(const Scope& scope, std::string_view name, ConvShape shape, Init weight_init);
  /// The context is for an adapter's dropout; without one there is none.
  at::Tensor operator()(const at::Tensor& x, const ForwardContext& ctx = {}) const;
  const Param& weight() const { return state_->weight; }

 private:
  std::shared_ptr<LayerState> state_;
};

class ConvTranspose2d {
 public:
  ConvTranspose2d() = default;
  ConvTranspose2d(const Scope& scope, std::string_view name, ConvShape shape);
  at::Tensor operator()(const at::Tensor& x) const;

 private:
  Param weight_;
  Param bias_;
  ConvShape shape_;
};

}  // namespace tessera::nn
