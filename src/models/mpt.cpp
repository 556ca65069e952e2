#include "tessera/models/mpt.hpp"

#include <ATen/ops/gelu.h>
#include <ATen/ops/layer_norm.h>

#include <tuple>

#include "decoder_layers.hpp"
#include "json_fields.hpp"
#include "tessera/nn/functional.hpp"

namespace tessera::models {
namespace {

at::Tensor bias_free_norm(const at::Tensor& x, const nn::Param& weight, double eps) {
  return at::layer_norm(x, {x.size(-1)}, weight->value(), {}, eps);
}

nn::Param norm_weight(const nn::Scope& scope, std::string_view name, std::int64_t dim) {
  return scope.child(name).param("weight", {dim}, nn::Init::ones());
}

}  // namespace

MptConfig MptConfig::from_json(const nlohmann::json& json, const std::string& where, bool class_defaults) {
  const JsonFields fields(json, where);
  const MptConfig defaults;
  const auto size = [&](const char* key, std::int64_t fallback) {
    return fields.integer(key, class_defaults ? std::optional(fallback) : std::nullopt);
  };
  MptConfig config;
  config.vocab_size = size("vocab_size", defaults.vocab_size);
  // LLaVA's configs may have transformers' common names beside MPT's own.
  config.hidden_size =
      fields.has("d_model") ? size("d_model", defaults.hidden_size) : size("hidden_size", defaults.hidden_size);
  config.layers = fields.layers("n_layers", class_defaults ? std::optional(defaults.layers) : std::nullopt);
  config.heads = size("n_heads", defaults.heads);
  config.intermediate_size = config.hidden_size * fields.integer("expansion_ratio", 4, 1, 1024);
  config.layer_norm_epsilon = fields.number("layer_norm_epsilon", defaults.layer_norm_epsilon);
  config.initializer_range = fields.number("initializer_range", defaults.initializer_range);
  config.tie_word_embeddings = fields.flag("tie_word_embeddings", true);
  require_divides(where, "n_heads", config.heads, "d_model", config.hidden_size);
  if (!fields.has("attn_config")) return config;
  const JsonFields attention(json.at("attn_config"), where + ": attn_config");
  // Zero clips nothing, as null.
  if (const double bound = attention.number("clip_qkv", 0.0); bound != 0.0) config.clip_qkv = bound;
  if (attention.has("softmax_scale")) config.softmax_scale = attention.number("softmax_scale", std::nullopt);
  if (attention.flag("qk_ln", false)) throw RequestError("{}: 'qk_ln' true is not supported", attention.where());
  return config;
}

MptLayer::MptLayer(const nn::Scope& scope, const MptConfig& config, std::int64_t index)
    : index_(static_cast<std::size_t>(index)),
      heads_(config.heads),
      eps_(config.layer_norm_epsilon),
      clip_qkv_(config.clip_qkv),
      softmax_scale_(config.softmax_scale) {
  const nn::Init init = nn::Init::normal(config.initializer_range);
  const std::int64_t d = config.hidden_size;
  attention_ = nn::note_attention(scope, "attn", config.heads, d / config.heads);
  norm_1_ = norm_weight(scope, "norm_1", d);
  qkv_ = nn::Linear(scope.child("attn"), "Wqkv", d, 3 * d, false, init);
  out_ = nn::Linear(scope.child("attn"), "out_proj", d, d, false, init);
  norm_2_ = norm_weight(scope, "norm_2", d);
  up_ = nn::Linear(scope.child("ffn"), "up_proj", d, config.intermediate_size, false, init);
  down_ = nn::Linear(scope.child("ffn"), "down_proj", config.intermediate_size, d, false, init);
}

/// Attention without its last projection: [B,T,D].
at::Tensor MptLayer::mix(const at::Tensor& x, const MptPass& pass, const nn::ForwardContext& ctx) const {
  at::Tensor all = qkv_(x, ctx);
  if (clip_qkv_) all = all.clamp(-*clip_qkv_, *clip_qkv_);
  const std::vector<at::Tensor> parts = all.chunk(3, 2);
  const at::Tensor q = nn::split_heads(parts[0], heads_);
  at::Tensor k = nn::split_heads(parts[1], heads_);
  at::Tensor v = nn::split_heads(parts[2], heads_);
  if (pass.cache != nullptr) {
    auto held = pass.cache->append(index_, k, v);
    k = std::move(held.keys);
    v = std::move(held.values);
  }
  std::tie(k, v) = nn::with_prefix(*attention_, std::move(k), std::move(v));
  return nn::merge_heads(nn::masked_attention(q, k, v, pass.mask, softmax_scale_));
}

at::Tensor MptLayer::operator()(const at::Tensor& x, const MptPass& pass, const nn::ForwardContext& ctx,
                                const LayerCall& call) const {
  const bool adapted = out_.adapted() || up_.adapted() || down_.adapted();  // whose dropout is drawn by position
  at::Tensor mixed = mix(bias_free_norm(x, norm_1_, eps_), pass, ctx);
  at::Tensor h = x;
  if (!adapted) {
    mixed = take_rows(mixed, call);
    h = take_rows(h, call);
  }
  h = h.add(out_(mixed, ctx));
  const at::Tensor inner = at::gelu(up_(bias_free_norm(h, norm_2_, eps_), ctx));
  h = h.add(call.value ? down_(inner, ctx) : down_.without_value(inner, ctx));
  return adapted ? take_rows(h, call) : h;
}

void Mpt::add_embedding(nn::ModelLayout& layout) {
  embedding_unit_ = layout.add_unit("transformer.wte");
  layout.mark_light(embedding_unit_, /*backward_reads_weights=*/false);
  embedding_ = nn::Embedding(nn::Scope(layout, embedding_unit_, "transformer"), "wte", config_.vocab_size,
                             config_.hidden_size, nn::Init::normal(config_.initializer_range));
  layout.mark_row_matrix(embedding_unit_, embedding_.weight());
}

void Mpt::add_decoder(nn::ModelLayout& layout) {
  for (std::int64_t i = 0; i < config_.layers; ++i) {
    const std::string name = "transformer.blocks." + std::to_string(i);
    layer_units_.push_back(layout.add_unit(name));
    layers_.emplace_back(nn::Scope(layout, layer_units_.back(), name), config_, i);
  }
  head_unit_ = layout.add_unit("lm_head");
  layout.mark_light(head_unit_);
  if (config_.tie_word_embeddings) layout.borrow(head_unit_, embedding_unit_);
  norm_f_ = norm_weight(nn::Scope(layout, head_unit_, "transformer"), "norm_f", config_.hidden_size);
  lm_head_ = config_.tie_word_embeddings
                 ? nn::Linear::tied("lm_head", embedding_.weight())
                 : nn::Linear(nn::Scope(layout, head_unit_, ""), "lm_head", config_.hidden_size, config_.vocab_size,
                              false, nn::Init::normal(config_.initializer_range));
  if (!config_.tie_word_embeddings) layout.mark_row_matrix(head_unit_, lm_head_.state().weight);
}

at::Tensor Mpt::embed(const at::Tensor& ids, nn::UnitRunner& runner) const {
  require_ids(ids, config_.vocab_size);
  const nn::Embedding& table = embedding_;
  return runner.run(embedding_unit_, {}, [ids, table](const nn::Tensors&) { return nn::Tensors{table(ids)}; }).at(0);
}

at::Tensor Mpt::decode(const at::Tensor& embeddings, const at::Tensor& mask, nn::UnitRunner& runner,
                       const nn::ForwardContext& ctx, const DecodeOptions& options) const {
  const auto pass = std::make_shared<MptPass>();
  pass->cache = options.cache;
  const std::int64_t prefix = layers_.empty() ? 0 : layers_.front().prefix_length();
  pass->mask = nn::alibi_mask(nn::mask_with_prefix(mask, prefix), embeddings.size(1), config_.heads,
                              embeddings.options().requires_grad(false));
  return run_layers(layers_, layer_units_, pass, embeddings, runner, ctx, options);
}

at::Tensor Mpt::final_norm(const at::Tensor& x) const {
  return bias_free_norm(x, norm_f_, config_.layer_norm_epsilon);
}

}  // namespace tessera::models
