#include "tessera/nn/layers.hpp"

#include <ATen/ops/conv2d.h>
#include <ATen/ops/conv_transpose2d.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/layer_norm.h>
#include <ATen/ops/rms_norm.h>

#include "tessera/nn/int8_input.hpp"
#include "tessera/nn/upload.hpp"
#include "tessera/nn/weighted.hpp"

namespace tessera::nn {
namespace {

std::shared_ptr<LayerState> make_layer(const Scope& scope, std::string_view name, LayerKind kind, std::int64_t in,
                                       std::int64_t out) {
  auto state = std::make_shared<LayerState>();
  state->name = scope.join(name);
  state->kind = kind;
  state->in = in;
  state->out = out;
  scope.layout().note_layer(state);
  return state;
}

/// A bias that is absent is a default-constructed optional tensor for LibTorch's operations.
std::optional<at::Tensor> optional_value(const Param& param) {
  return param ? std::optional<at::Tensor>(param->value()) : std::nullopt;
}

/// No gradient of it is wanted.
bool constant(const ParamState& weight) {
  return weight.by_rows() || !weight.value().requires_grad();
}

/// What the weight is multiplied with.
at::Tensor input_of(const LayerState& layer, const at::Tensor& x) {
  return layer.int8_threshold ? int8_input(x, *layer.int8_threshold) : x;
}

}  // namespace

Linear::Linear(const Scope& scope, std::string_view name, std::int64_t in, std::int64_t out, bool bias)
    : state_(make_layer(scope, name, LayerKind::linear, in, out)) {
  const Scope own = scope.child(name);
  state_->weight = own.param("weight", {out, in}, Init::fan_in(in));
  if (bias) state_->bias = own.param("bias", {out}, Init::fan_in(in));
}

Linear::Linear(const Scope& scope, std::string_view name, std::int64_t in, std::int64_t out, bool bias,
               Init weight_init)
    : state_(make_layer(scope, name, LayerKind::linear, in, out)) {
  const Scope own = scope.child(name);
  state_->weight = own.param("weight", {out, in}, weight_init);
  if (bias) state_->bias = own.param("bias", {out}, Init::zeros());
}

Linear Linear::tied(std::string name, Param weight) {
  Linear linear;
  linear.state_ = std::make_shared<LayerState>();
  linear.state_->name = std::move(name);
  linear.state_->out = weight->shape.at(0);
  linear.state_->in = weight->shape.at(1);
  linear.state_->weight = std::move(weight);
  return linear;
}

at::Tensor Linear::operator()(const at::Tensor& x, const ForwardContext& ctx) const {
  const at::Tensor in = input_of(*state_, x);
  if (state_->weight->by_rows() && !state_->adapter && !state_->bias) return linear_by_rows(in, *state_->weight);
  const at::Tensor base = nn::linear(in, state_->weight->value(), optional_value(state_->bias));
  return state_->adapter ? state_->adapter->apply(x, base, ctx) : base;
}

at::Tensor Linear::without_value(const at::Tensor& x, const ForwardContext& ctx) const {
  if (state_->adapter) return (*this)(x, ctx);
  return linear_without_value(x, state_->weight->value(), optional_value(state_->bias));
}

at::Tensor Linear::cross_entropy_sum(const at::Tensor& x, const at::Tensor& targets, const ForwardContext& ctx,
                                     double smoothing) const {
  if (!state_->adapter && !state_->bias) {
    const at::Tensor in = input_of(*state_, x);
    if (constant(*state_->weight)) return linear_cross_entropy_sum_by_rows(in, *state_->weight, targets, smoothing);
    return linear_cross_entropy_sum(in, state_->weight->value(), targets, smoothing);
  }
  constexpr std::int64_t kIgnored = -100;  // the operator's own default
  return at::cross_entropy_loss((*this)(x, ctx).to(at::kFloat), targets, {}, at::Reduction::Sum, kIgnored, smoothing);
}

Embedding::Embedding(const Scope& scope, std::string_view name, std::int64_t count, std::int64_t dim, Init init)
    : state_(make_layer(scope, name, LayerKind::embedding, count, dim)) {
  state_->weight = scope.child(name).param("weight", {count, dim}, init);
}

at::Tensor Embedding::operator()(const at::Tensor& ids) const {
  const ParamState& weight = *state_->weight;
  const at::Tensor base = constant(weight) ? embedding_by_rows(weight, ids)
                                           : nn::embedding(weight.value(), upload(ids, weight.value().device()));
  return state_->adapter ? state_->adapter->apply(upload(ids, base.device()), base, {}) : base;
}

LayerNorm::LayerNorm(const Scope& scope, std::string_view name, std::int64_t dim, double eps)
    : weight_(scope.child(name).param("weight", {dim}, Init::ones())),
      bias_(scope.child(name).param("bias", {dim}, Init::zeros())),
      eps_(eps) {}

at::Tensor LayerNorm::operator()(const at::Tensor& x) const {
  return at::layer_norm(x, {x.size(-1)}, weight_->value(), bias_->value(), eps_);
}

RmsNorm::RmsNorm(const Scope& scope, std::string_view name, std::int64_t dim, double eps)
    : weight_(scope.child(name).param("weight", {dim}, Init::ones())), eps_(eps) {}

at::Tensor RmsNorm::operator()(const at::Tensor& x) const {
  return at::rms_norm(x, {x.size(-1)}, weight_->value(), eps_);
}

LayerNorm2d::LayerNorm2d(const Scope& scope, std::string_view name, std::int64_t channels, double eps)
    : weight_(scope.child(name).param("weight", {channels}, Init::ones())),
      bias_(scope.child(name).param("bias", {channels}, Init::zeros())),
      eps_(eps) {}

at::Tensor LayerNorm2d::operator()(const at::Tensor& x) const {
  const at::Tensor last = x.permute({0, 2, 3, 1});
  return at::layer_norm(last, {last.size(-1)}, weight_->value(), bias_->value(), eps_).permute({0, 3, 1, 2});
}

Conv2d::Conv2d(const Scope& scope, std::string_view name, ConvShape shape)
    : Conv2d(scope, name, shape, Init::fan_in(shape.in * shape.kernel * shape.kernel)) {}

Conv2d::Conv2d(const Scope& scope, std::string_view name, ConvShape shape, Init weight_init)
    : state_(make_layer(scope, name, LayerKind::conv2d, shape.in, shape.out)) {
  const Scope own = scope.child(name);
  state_->conv = shape;
  state_->weight = own.param("weight", {shape.out, shape.in, shape.kernel, shape.kernel}, weight_init);
  if (shape.bias) state_->bias = own.param("bias", {shape.out}, Init::fan_in(shape.in * shape.kernel * shape.kernel));
}

at::Tensor Conv2d::operator()(const at::Tensor& x, const ForwardContext& ctx) const {
  const ConvShape& shape = state_->conv;
  const at::Tensor base = at::conv2d(x, state_->weight->value(), optional_value(state_->bias),
                                     {shape.stride, shape.stride}, {shape.padding, shape.padding});
  return state_->adapter ? state_->adapter->apply(x, base, ctx) : base;
}

ConvTranspose2d::ConvTranspose2d(const Scope& scope, std::string_view name, ConvShape shape) : shape_(shape) {
  const Scope own = scope.child(name);
  // PyTorch counts the fan-in of a transposed convolution over its output channels.
  const Init init = Init::fan_in(shape.out * shape.kernel * shape.kernel);
  weight_ = own.param("weight", {shape.in, shape.out, shape.kernel, shape.kernel}, init);
  if (shape.bias) bias_ = own.param("bias", {shape.out}, init);
}

at::Tensor ConvTranspose2d::operator()(const at::Tensor& x) const {
  return at::conv_transpose2d(x, weight_->value(), optional_value(bias_), {shape_.stride, shape_.stride},
                              {shape_.padding, shape_.padding});
}

}  // namespace tessera::nn
