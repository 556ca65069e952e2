#include "fastvit_conv.hpp"

#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/rsqrt.h>

namespace tessera::models {
namespace {

constexpr double kEps = 1e-5;
constexpr std::int64_t kLarge = 7;
constexpr std::int64_t kSmall = 3;

/// 16-bit weights are put together in fp32.
at::Tensor wide(const nn::Param& param) {
  const at::Tensor& value = param->value();
  return value.scalar_type() == at::kDouble ? value : value.to(at::kFloat);
}

at::Tensor by_channel(const at::Tensor& values) {
  return values.reshape({-1, 1, 1, 1});
}

at::Tensor centred(const at::Tensor& kernel, std::int64_t size) {
  const std::int64_t pad = (size - kernel.size(-1)) / 2;
  return pad == 0 ? kernel : at::constant_pad_nd(kernel, {pad, pad, pad, pad});
}

nn::Init fan_in(const ConvGeometry& g, std::int64_t kernel) {
  return nn::Init::fan_in(g.in / g.groups * kernel * kernel);
}

}  // namespace

FrozenBatchNorm::FrozenBatchNorm(const nn::Scope& scope, std::string_view name, std::int64_t channels) {
  const nn::Scope own = scope.child(name);
  params_ = {own.param("weight", {channels}, nn::Init::ones()), own.param("bias", {channels}, nn::Init::zeros()),
             own.buffer("running_mean", {channels}, nn::Init::zeros()),
             own.buffer("running_var", {channels}, nn::Init::ones())};
}

std::pair<at::Tensor, at::Tensor> FrozenBatchNorm::scale_and_shift() const {
  const at::Tensor scale = wide(params_[0]).mul(at::rsqrt(wide(params_[3]).add(kEps)));
  return {scale, wide(params_[1]).sub(wide(params_[2]).mul(scale))};
}

void RepConv::set_folded(const nn::Scope& scope, std::string_view name) {
  const nn::Scope own = scope.child(name);
  const nn::Init init = fan_in(geometry_, geometry_.kernel);
  weight_ =
      own.param("weight", {geometry_.out, geometry_.in / geometry_.groups, geometry_.kernel, geometry_.kernel}, init);
  bias_ = own.param("bias", {geometry_.out}, init);
}

void RepConv::add_conv_norm(const nn::Scope& scope, std::string_view name, std::int64_t kernel) {
  const nn::Scope own = scope.child(name);
  Branch branch;
  branch.weight = own.param("conv.weight", {geometry_.out, geometry_.in / geometry_.groups, kernel, kernel},
                            fan_in(geometry_, kernel));
  branch.norm.emplace(own, "bn", geometry_.out);
  branches_.push_back(std::move(branch));
}

void RepConv::add_mobile_one(const nn::Scope& scope, bool scale_branch) {
  if (geometry_.in == geometry_.out && geometry_.stride == 1) {
    Branch skip;
    skip.norm.emplace(scope, "rbr_skip", geometry_.out);
    branches_.push_back(std::move(skip));
  }
  add_conv_norm(scope, "rbr_conv.0", geometry_.kernel);
  if (geometry_.kernel > 1 && scale_branch) add_conv_norm(scope, "rbr_scale", 1);
}

RepConv RepConv::mobile_one(const nn::Scope& scope, ConvGeometry geometry, bool branches, bool scale_branch) {
  RepConv conv(geometry);
  conv.folded_name_ = scope.join("reparam_conv");
  if (branches) {
    conv.add_mobile_one(scope, scale_branch);
  } else {
    conv.set_folded(scope, "reparam_conv");
  }
  return conv;
}

RepConv RepConv::large_kernel(const nn::Scope& scope, ConvGeometry geometry, bool branches) {
  geometry.kernel = kLarge;
  RepConv conv(geometry);
  conv.folded_name_ = scope.join("lkb_reparam");
  if (branches) {
    conv.add_conv_norm(scope, "lkb_origin", kLarge);
    conv.add_conv_norm(scope, "small_conv", kSmall);
  } else {
    conv.set_folded(scope, "lkb_reparam");
  }
  return conv;
}

RepConv RepConv::mixer(const nn::Scope& scope, std::int64_t channels, bool branches) {
  RepConv conv({.in = channels, .out = channels, .kernel = kSmall, .stride = 1, .groups = channels});
  conv.folded_name_ = scope.join("reparam_conv");
  if (!branches) {
    conv.set_folded(scope, "reparam_conv");
    return conv;
  }
  Branch norm;
  norm.norm.emplace(scope.child("norm"), "rbr_skip", channels);
  norm.sign = -1;
  conv.branches_.push_back(std::move(norm));
  conv.add_mobile_one(scope.child("mixer"), true);
  conv.layer_scale_ = scope.param("layer_scale", {channels, 1, 1}, nn::Init::normal(1e-5));
  conv.residual_ = true;
  return conv;
}

RepConv RepConv::position(const nn::Scope& scope, std::int64_t channels, bool branches) {
  RepConv conv({.in = channels, .out = channels, .kernel = kLarge, .stride = 1, .groups = channels});
  conv.folded_name_ = scope.join("reparam_conv");
  if (!branches) {
    conv.set_folded(scope, "reparam_conv");
    return conv;
  }
  Branch branch;
  branch.weight = scope.param("pe.weight", {channels, 1, kLarge, kLarge}, fan_in(conv.geometry_, kLarge));
  branch.bias = scope.param("pe.bias", {channels}, fan_in(conv.geometry_, kLarge));
  conv.branches_.push_back(std::move(branch));
  conv.residual_ = true;
  return conv;
}

RepConv RepConv::conv_and_norm(const nn::Scope& scope, std::int64_t channels) {
  RepConv conv({.in = channels, .out = channels, .kernel = kLarge, .stride = 1, .groups = channels});
  conv.add_conv_norm(scope, "conv", kLarge);
  return conv;
}

at::Tensor RepConv::identity(const at::TensorOptions& options) const {
  const std::int64_t inner = geometry_.in / geometry_.groups;
  const at::Tensor centre = at::eye(inner, options).repeat({geometry_.groups, 1});
  return centred(centre.reshape({geometry_.out, inner, 1, 1}), geometry_.kernel);
}

std::pair<at::Tensor, at::Tensor> RepConv::kernel() const {
  if (weight_) return {weight_->value(), bias_->value()};
  at::Tensor kernel, bias;
  for (const Branch& branch : branches_) {
    at::Tensor weight, shift;
    if (branch.norm) {
      const auto [scale, offset] = branch.norm->scale_and_shift();
      weight = branch.weight ? wide(branch.weight) : identity(scale.options().requires_grad(false));
      weight = weight.mul(by_channel(scale));
      shift = offset;
    } else {
      weight = wide(branch.weight);
      shift = wide(branch.bias);
    }
    weight = centred(weight, geometry_.kernel);
    kernel = kernel.defined() ? kernel.add(weight, branch.sign) : weight.mul(branch.sign);
    bias = bias.defined() ? bias.add(shift, branch.sign) : shift.mul(branch.sign);
  }
  if (layer_scale_) {
    const at::Tensor scale = wide(layer_scale_);
    kernel = kernel.mul(by_channel(scale));
    bias = bias.mul(scale.reshape({-1}));
  }
  if (residual_) kernel = kernel.add(identity(kernel.options().requires_grad(false)));
  return {kernel, bias};
}

at::Tensor RepConv::operator()(const at::Tensor& x) const {
  const auto [weight, bias] = kernel();
  const std::int64_t pad = geometry_.kernel / 2;
  return at::conv2d(x, weight.to(x.scalar_type()), bias.to(x.scalar_type()), {geometry_.stride, geometry_.stride},
                    {pad, pad}, {1, 1}, geometry_.groups);
}

at::ScalarType RepConv::type() const {
  const nn::Param& any = weight_                  ? weight_
                         : branches_.front().norm ? branches_.front().norm->params().front()
                                                  : branches_.front().weight;
  return any->value().scalar_type();
}

std::optional<FastVitFold> RepConv::fold() const {
  if (weight_ || folded_name_.empty()) return std::nullopt;
  FastVitFold fold;
  fold.name = folded_name_;
  fold.shape = {geometry_.out, geometry_.in / geometry_.groups, geometry_.kernel, geometry_.kernel};
  for (const Branch& branch : branches_) {
    for (const nn::Param& param : {branch.weight, branch.bias}) {
      if (param) fold.sources.push_back(param);
    }
    if (branch.norm) {
      for (const nn::Param& param : branch.norm->params()) fold.sources.push_back(param);
    }
  }
  if (layer_scale_) fold.sources.push_back(layer_scale_);
  fold.fold = [conv = *this] { return conv.kernel(); };
  return fold;
}

}  // namespace tessera::models
