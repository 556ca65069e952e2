#include "tessera/adapt/lora.hpp"

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/linear.h>

#include <algorithm>
#include <cmath>
#include <functional>

#include "tessera/core/error.hpp"
#include "tessera/nn/dropout.hpp"
#include "tessera/nn/weighted.hpp"

namespace tessera::adapt {
namespace {

constexpr std::int64_t kNormElements = std::int64_t{1} << 20;  ///< of a block of rows whose lengths are measured

using AddParam = std::function<nn::Param(const char* what, std::vector<std::int64_t> shape, nn::Init init)>;

/// The value of a bias in x's type; nothing where there is none.
std::optional<at::Tensor> in_type(const nn::Param& bias, const at::Tensor& x) {
  return bias ? std::optional(bias->value().to(x.scalar_type())) : std::nullopt;
}

/// What autograd keeps of the input: the (dropped-out) x for A's gradient and the low-rank product for B's.
class LoraAdapter final : public nn::LayerAdapter {
 public:
  LoraAdapter(const LoraLayer& layer, double dropout)
      : a_(layer.a),
        b_(layer.b),
        bias_(layer.bias),
        scaling_(layer.scaling),
        dropout_(dropout),
        site_(layer.target->name) {}

  at::Tensor apply(const at::Tensor& x, const at::Tensor& base, const nn::ForwardContext& ctx) const override {
    const at::Tensor low = at::linear(nn::dropout(x, dropout_, site_, ctx), a_->value().to(x.scalar_type()));
    return base.add(at::linear(low, b_->value().to(x.scalar_type()), in_type(bias_, x)), scaling_);
  }

 private:
  nn::Param a_, b_, bias_;
  double scaling_;
  double dropout_;
  std::string site_;
};

/// Row i of the table gains scaling * (B A)^T's row i.
class EmbeddingAdapter final : public nn::LayerAdapter {
 public:
  explicit EmbeddingAdapter(const LoraLayer& layer) : a_(layer.a), b_(layer.b), scaling_(layer.scaling) {}

  at::Tensor apply(const at::Tensor& ids, const at::Tensor& base, const nn::ForwardContext&) const override {
    const at::Tensor low = a_->value().index_select(1, ids.flatten()).t().to(base.scalar_type());
    return base.add(at::linear(low, b_->value().to(base.scalar_type())).view(base.sizes()), scaling_);
  }

 private:
  nn::Param a_, b_;
  double scaling_;
};

/// A is a convolution like the layer's own, B one of single pixels.
class ConvAdapter final : public nn::LayerAdapter {
 public:
  ConvAdapter(const LoraLayer& layer, double dropout)
      : a_(layer.a),
        b_(layer.b),
        bias_(layer.bias),
        shape_(layer.target->conv),
        scaling_(layer.scaling),
        dropout_(dropout),
        site_(layer.target->name) {}

  at::Tensor apply(const at::Tensor& x, const at::Tensor& base, const nn::ForwardContext& ctx) const override {
    const at::Tensor low = at::conv2d(nn::dropout(x, dropout_, site_, ctx), a_->value().to(x.scalar_type()), {},
                                      {shape_.stride, shape_.stride}, {shape_.padding, shape_.padding});
    return base.add(at::conv2d(low, b_->value().to(x.scalar_type()), in_type(bias_, x)), scaling_);
  }

 private:
  nn::Param a_, b_, bias_;
  nn::ConvShape shape_;
  double scaling_;
  double dropout_;
  std::string site_;
};

/// As LoRA, with A's rows scaled by E.
class AdaLoraAdapter final : public nn::LayerAdapter {
 public:
  AdaLoraAdapter(const LoraLayer& layer, double dropout)
      : a_(layer.a), b_(layer.b), e_(layer.e), scaling_(layer.scaling), dropout_(dropout), site_(layer.target->name) {}

  at::Tensor apply(const at::Tensor& x, const at::Tensor& base, const nn::ForwardContext& ctx) const override {
    const at::Tensor rows = (a_->value() * e_->value()).to(x.scalar_type());
    const at::Tensor low = at::linear(nn::dropout(x, dropout_, site_, ctx), rows);
    return base.add(at::linear(low, b_->value().to(x.scalar_type())), scaling_);
  }

 private:
  nn::Param a_, b_, e_;
  double scaling_;
  double dropout_;
  std::string site_;
};

/// With t = W x + scaling * B A x: y = t m / |W + scaling * B A| + b. Of the output's size autograd keeps t alone.
class DoraAdapter final : public nn::LayerAdapter {
 public:
  DoraAdapter(const LoraLayer& layer, double dropout)
      : weight_(layer.target->weight),
        bias_(layer.target->bias),
        a_(layer.a),
        b_(layer.b),
        magnitude_(layer.magnitude),
        scaling_(layer.scaling),
        dropout_(dropout),
        site_(layer.target->name) {}

  at::Tensor apply(const at::Tensor& x, const at::Tensor& base, const nn::ForwardContext& ctx) const override {
    const at::ScalarType type = x.scalar_type();
    const at::Tensor scale = magnitude_->value() / row_norms(weight_->value(), a_->value(), b_->value(), scaling_);
    const bool drops = ctx.training && dropout_ > 0;
    const at::Tensor input = drops ? nn::dropout(x, dropout_, site_, ctx) : x;
    const at::Tensor added = at::linear(at::linear(input, a_->value().to(type)), b_->value().to(type));
    if (drops) {
      const at::Tensor plain = nn::linear(input, weight_->value(), {});
      return base - plain + plain.add(added, scaling_) * scale.to(type);
    }
    const at::Tensor plain = bias_ ? base - bias_->value() : base;
    const at::Tensor scaled = plain.add(added, scaling_) * scale.to(type);
    return bias_ ? scaled + bias_->value() : scaled;
  }

 private:
  nn::Param weight_, bias_, a_, b_, magnitude_;
  double scaling_;
  double dropout_;
  std::string site_;
};

template <class Value>
const Value* find_pattern(const std::vector<std::pair<std::string, Value>>& patterns, const std::string& name) {
  for (const auto& [key, value] : patterns) {
    if (pattern_matches(key, name)) return &value;
  }
  return nullptr;
}

template <class Value>
void check_patterns(const std::vector<std::pair<std::string, Value>>& patterns, const std::vector<std::string>& names,
                    std::string_view option) {
  for (const auto& [key, value] : patterns) {
    const auto matches = [&key = key](const std::string& name) { return pattern_matches(key, name); };
    if (std::none_of(names.begin(), names.end(), matches))
      throw RequestError("lora: {} '{}' matches no target layer{}", option, key, suggestion(key, names));
  }
}

void check(const LoraConfig& config) {
  if (config.rank < 1) throw RequestError("lora: rank {} is below 1", config.rank);
  if (config.adalora && config.layers.empty()) config.adalora->check();
  if (config.starts_in_base() && (config.adalora || config.dora))
    throw RequestError(
        "lora: an adapter that begins in the base weight (pissa, olora) is plain LoRA, no DoRA or AdaLoRA");
  if (config.adalora && config.dora) throw RequestError("lora: use_dora is not for AdaLoRA");
  if (config.adalora && !(config.rank_pattern.empty() && config.alpha_pattern.empty() && !config.rslora))
    throw RequestError("lora: rank_pattern, alpha_pattern and use_rslora are not for AdaLoRA, which has one init_r");
  if (config.bias && (config.adalora || config.dora || config.starts_in_base() || config.init == LoraInit::gaussian))
    throw RequestError("lora: lora_bias is for plain LoRA with init_lora_weights true or false");
  if (!(config.dropout >= 0.0 && config.dropout < 1.0))
    throw RequestError("lora: dropout {} is not in [0, 1)", config.dropout);
}

std::vector<std::shared_ptr<nn::LayerState>> checked_targets(const nn::ModelLayout& layout, const LoraConfig& config) {
  check(config);
  auto targets = find_targets(layout, config);
  std::vector<std::string> names;
  for (const auto& target : targets) names.push_back(target->name);
  check_patterns(config.rank_pattern, names, "rank_pattern");
  check_patterns(config.alpha_pattern, names, "alpha_pattern");
  for (const auto& target : targets) {
    if (target->adapter) throw RequestError("lora: layer '{}' has an adapter already", target->name);
    const std::int64_t rank = config.layer(target->name).rank;
    if (target->kind != nn::LayerKind::linear && (config.dora || config.adalora || config.starts_in_base()))
      throw RequestError("lora: '{}' is no linear layer; DoRA, AdaLoRA, PiSSA and OLoRA are for linear layers",
                         target->name);
    if (config.bias && (target->kind == nn::LayerKind::embedding || !target->bias))
      throw RequestError("lora: lora_bias needs layers with a bias, which '{}' has not", target->name);
    const std::int64_t inputs = target->in * target->conv.kernel * target->conv.kernel;
    const bool read = config.layers.contains(target->name);  // whose rank was chosen elsewhere
    if (rank >= 1 && (rank <= std::min(inputs, target->out) || read)) continue;
    if (rank == 0 && read && config.adalora) continue;
    throw RequestError("lora: rank {} is {} '{}' [{}, {}]", rank,
                       rank < 1 ? "below 1 for" : "above the smaller side of", target->name, target->out, target->in);
  }
  return targets;
}

nn::Init init_of_a(LoraInit init, std::int64_t in, std::int64_t rank) {
  return init == LoraInit::gaussian ? nn::Init::normal(1.0 / static_cast<double>(rank)) : nn::Init::fan_in(in);
}

void add_matrices(LoraLayer& layer, const LoraConfig& config, std::int64_t rank, const AddParam& add) {
  const nn::LayerState& target = *layer.target;
  if (target.kind == nn::LayerKind::embedding) {
    layer.a = add(".lora_embedding_A.default", {rank, target.in},
                  config.init == LoraInit::both ? nn::Init::normal(1.0) : nn::Init::zeros());
    layer.b = add(".lora_embedding_B.default", {target.out, rank}, nn::Init::normal(1.0));
    return;
  }
  if (target.kind == nn::LayerKind::conv2d) {
    const std::int64_t k = target.conv.kernel;
    layer.a = add(".lora_A.default.weight", {rank, target.in, k, k}, init_of_a(config.init, target.in * k * k, rank));
    layer.b = add(".lora_B.default.weight", {target.out, rank, 1, 1},
                  config.init == LoraInit::both ? nn::Init::fan_in(rank) : nn::Init::zeros());
    return;
  }
  layer.a = add(".lora_A.default.weight", {rank, target.in}, init_of_a(config.init, target.in, rank));
  layer.b = add(".lora_B.default.weight", {target.out, rank},
                config.init == LoraInit::both ? nn::Init::fan_in(rank) : nn::Init::zeros());
  if (config.dora) layer.magnitude = add(".lora_magnitude_vector.default.weight", {target.out}, nn::Init::ones());
}

void add_triplets(LoraLayer& layer, const LoraConfig& config, std::int64_t rank, const AddParam& add) {
  constexpr double kDeviation = 0.02;
  const bool drawn = config.init == LoraInit::both;
  const nn::Init init = nn::Init::normal(drawn ? 1.0 : kDeviation);
  layer.a = add(".lora_A.default", {rank, layer.target->in}, init);
  layer.e = add(".lora_E.default", {rank, 1}, drawn ? nn::Init::normal(1.0) : nn::Init::zeros());
  layer.b = add(".lora_B.default", {layer.target->out, rank}, init);
}

LoraLayer add_layer(nn::ModelLayout& layout, nn::UnitId unit, const std::shared_ptr<nn::LayerState>& target,
                    const LoraConfig& config) {
  const LoraConfig::Layer settings = config.layer(target->name);
  const AddParam add = [&](const char* what, std::vector<std::int64_t> shape, nn::Init init) {
    nn::Param param = layout.add(unit, target->name + what, std::move(shape), init);
    param->trainable = true;
    return param;
  };
  LoraLayer layer;
  layer.target = target;
  layer.scaling = config.scaling(settings);
  (config.adalora ? add_triplets : add_matrices)(layer, config, settings.rank, add);
  if (config.bias) layer.bias = add(".lora_B.default.bias", {target->out}, nn::Init::zeros());
  return layer;
}

std::shared_ptr<const nn::LayerAdapter> adapter_of(const LoraLayer& layer, const LoraConfig& config) {
  if (config.adalora) return std::make_shared<AdaLoraAdapter>(layer, config.dropout);
  if (config.dora) return std::make_shared<DoraAdapter>(layer, config.dropout);
  if (layer.target->kind == nn::LayerKind::embedding) return std::make_shared<EmbeddingAdapter>(layer);
  if (layer.target->kind == nn::LayerKind::conv2d) return std::make_shared<ConvAdapter>(layer, config.dropout);
  return std::make_shared<LoraAdapter>(layer, config.dropout);
}

}  // namespace

LoraConfig::Layer LoraConfig::layer(const std::string& name) const {
  if (const auto settled = layers.find(name); settled != layers.end()) return settled->second;
  if (adalora) return {adalora->init_r, alpha};
  Layer out{rank, alpha};
  if (const auto* other = find_pattern(rank_pattern, name)) out.rank = *other;
  if (const auto* other = find_pattern(alpha_pattern, name)) out.alpha = *other;
  return out;
}

double LoraConfig::scaling(const Layer& layer) const {
  if (adalora) {
    constexpr double kPeft = 1e-5;
    const auto initial = static_cast<double>(adalora->init_r);
    return (layer.alpha > 0 ? layer.alpha : initial) / (initial + kPeft);
  }
  const auto r = static_cast<double>(layer.rank);
  return layer.alpha / (rslora ? std::sqrt(r) : r);
}

std::vector<std::string> lora_targets(const nn::ModelLayout& layout, const LoraConfig& config) {
  std::vector<std::string> names;
  for (const auto& linear : checked_targets(layout, config)) names.push_back(linear->name);
  return names;
}

Lora attach_lora(nn::ModelLayout& layout, const LoraConfig& config) {
  Lora lora;
  lora.config = config;
  const auto targets = checked_targets(layout, config);
  if (!config.modules_to_save.empty()) lora.saved = saved_modules(layout, config.modules_to_save);
  for (const nn::Param& param : lora.saved) param->trainable = !param->buffer;
  lora.unit = layout.add_unit("adapters", true);
  for (const auto& target : targets) {
    if (config.layer(target->name).rank == 0) {
      lora.empty.push_back(target->name);
      continue;
    }
    LoraLayer layer = add_layer(layout, lora.unit, target, config);
    layout.mark_adapted(target->weight->unit);
    target->adapter = adapter_of(layer, config);
    lora.layers.push_back(std::move(layer));
  }
  return lora;
}

std::vector<std::string> layer_names(const Lora& lora) {
  std::vector<std::string> names;
  for (const LoraLayer& layer : lora.layers) names.push_back(layer.target->name);
  names.insert(names.end(), lora.empty.begin(), lora.empty.end());
  return names;
}

LoraTensors bound_tensors(const LoraLayer& layer) {
  if (layer.target->kind == nn::LayerKind::embedding)
    return {layer.b->value().t(), layer.a->value().t(), {}, layer.scaling};
  LoraTensors out{layer.a->value().flatten(1), layer.b->value().flatten(1), {}, layer.scaling};
  if (layer.e) out.a = out.a * layer.e->value();
  if (layer.magnitude) out.magnitude = layer.magnitude->value();
  if (layer.bias) out.bias = layer.bias->value();
  return out;
}

at::Tensor merged_rows(const at::Tensor& weight, const LoraTensors& lora, std::int64_t begin) {
  const at::NoGradGuard no_grad;
  const std::int64_t count = weight.size(0);
  const at::Tensor b = lora.b.narrow(0, begin, count).to(at::kFloat);
  at::Tensor rows = at::addmm(weight.flatten(1).to(at::kFloat), b, lora.a.to(at::kFloat), 1.0, lora.scaling);
  if (lora.magnitude.defined()) {
    const at::Tensor length = at::linalg_vector_norm(rows, 2, at::IntArrayRef{1}, /*keepdim=*/true);
    rows.mul_(lora.magnitude.narrow(0, begin, count).to(at::kFloat).unsqueeze(1).div(length));
  }
  return rows.to(weight.scalar_type()).view(weight.sizes());
}

at::Tensor merged_bias(const at::Tensor& bias, const LoraTensors& lora) {
  const at::NoGradGuard no_grad;
  return bias.to(at::kFloat).add(lora.bias.to(at::kFloat), lora.scaling).to(bias.scalar_type());
}

at::Tensor row_norms(const at::Tensor& weight, const at::Tensor& a, const at::Tensor& b, double scaling) {
  const at::NoGradGuard no_grad;
  const std::int64_t rows = weight.size(0);
  const std::int64_t at_once = std::max<std::int64_t>(kNormElements / std::max<std::int64_t>(weight.size(1), 1), 1);
  at::Tensor norms = at::empty({rows}, weight.options().dtype(at::kFloat).requires_grad(false));
  for (std::int64_t begin = 0; begin < rows; begin += at_once) {
    const std::int64_t count = std::min(at_once, rows - begin);
    const at::Tensor sum = at::addmm(weight.narrow(0, begin, count).to(at::kFloat),
                                     b.narrow(0, begin, count).to(at::kFloat), a.to(at::kFloat), 1.0, scaling);
    norms.narrow(0, begin, count).copy_(at::linalg_vector_norm(sum, 2, at::IntArrayRef{1}));
  }
  return norms;
}

}  // namespace tessera::adapt
