#include "tessera/models/llama.hpp"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/ones_like.h>

#include <tuple>

#include "decoder_layers.hpp"

namespace tessera::models {

LlamaLayer::LlamaLayer(const nn::Scope& scope, const LlamaConfig& config, std::int64_t index)
    : index_(static_cast<std::size_t>(index)),
      windowed_(config.window > 0 && index >= config.first_windowed),
      heads_(config.heads),
      kv_heads_(config.kv_heads),
      activation_(config.activation) {
  const nn::Init init = nn::Init::normal(config.initializer_range);
  const std::int64_t d = config.hidden_size;
  const std::int64_t inner = config.intermediate_size;
  const std::int64_t q_dim = config.heads * config.head_dim;
  const std::int64_t kv_dim = config.kv_heads * config.head_dim;
  const nn::Scope attn = scope.child("self_attn");
  const nn::Scope mlp = scope.child("mlp");
  attention_ = nn::note_attention(scope, "self_attn", config.kv_heads, config.head_dim);
  input_norm_ = nn::RmsNorm(scope, "input_layernorm", d, config.rms_norm_eps);
  q_ = nn::Linear(attn, "q_proj", d, q_dim, config.qkv_bias, init);
  k_ = nn::Linear(attn, "k_proj", d, kv_dim, config.qkv_bias, init);
  v_ = nn::Linear(attn, "v_proj", d, kv_dim, config.qkv_bias, init);
  o_ = nn::Linear(attn, "o_proj", q_dim, d, config.output_bias, init);
  post_norm_ = nn::RmsNorm(scope, "post_attention_layernorm", d, config.rms_norm_eps);
  gate_ = nn::Linear(mlp, "gate_proj", d, inner, config.mlp_bias, init);
  up_ = nn::Linear(mlp, "up_proj", d, inner, config.mlp_bias, init);
  down_ = nn::Linear(mlp, "down_proj", inner, d, config.mlp_bias, init);
}

/// Attention without its last projection: [B,T,heads*head_dim].
at::Tensor LlamaLayer::mix(const at::Tensor& x, const LlamaPass& pass, const nn::ForwardContext& ctx) const {
  const at::Tensor q = nn::apply_rope(nn::split_heads(q_(x, ctx), heads_), pass.rope);
  at::Tensor k = nn::apply_rope(nn::split_heads(k_(x, ctx), kv_heads_), pass.rope);
  at::Tensor v = nn::split_heads(v_(x, ctx), kv_heads_);
  if (pass.cache != nullptr) {
    auto held = pass.cache->append(index_, k, v);
    k = std::move(held.keys);
    v = std::move(held.values);
  }
  std::tie(k, v) = nn::with_prefix(*attention_, std::move(k), std::move(v));
  const nn::CausalMask& mask = windowed_ ? pass.windowed : pass.mask;
  return nn::merge_heads(nn::masked_attention(q, k, v, mask));
}

at::Tensor LlamaLayer::operator()(const at::Tensor& x, const LlamaPass& pass, const nn::ForwardContext& ctx,
                                  const LayerCall& call) const {
  // Dropout of an adapter is drawn by row and position, so where there is one they stay in their places.
  const bool adapted = o_.adapted() || gate_.adapted() || up_.adapted() || down_.adapted();
  at::Tensor mixed = mix(input_norm_(x), pass, ctx);
  at::Tensor h = x;
  if (!adapted) {
    mixed = take_rows(mixed, call);
    h = take_rows(h, call);
  }
  h = h.add(o_(mixed, ctx));
  const at::Tensor normed = post_norm_(h);
  const at::Tensor inner = nn::activate(activation_, gate_(normed, ctx)).mul(up_(normed, ctx));
  h = h.add(call.value ? down_(inner, ctx) : down_.without_value(inner, ctx));
  return adapted ? take_rows(h, call) : h;
}

void Llama::add_embedding(nn::ModelLayout& layout) {
  embedding_unit_ = layout.add_unit("model.embed_tokens");
  layout.mark_light(embedding_unit_, /*backward_reads_weights=*/false);
  const nn::Scope scope(layout, embedding_unit_, "model");
  embedding_ = nn::Embedding(scope, "embed_tokens", config_.vocab_size, config_.hidden_size,
                             nn::Init::normal(config_.initializer_range));
  layout.mark_row_matrix(embedding_unit_, embedding_.weight());
}

void Llama::add_decoder(nn::ModelLayout& layout) {
  for (std::int64_t i = 0; i < config_.layers; ++i) {
    const std::string name = "model.layers." + std::to_string(i);
    layer_units_.push_back(layout.add_unit(name));
    layers_.emplace_back(nn::Scope(layout, layer_units_.back(), name), config_, i);
  }
  head_unit_ = layout.add_unit("lm_head");
  layout.mark_light(head_unit_);
  if (config_.tie_word_embeddings) layout.borrow(head_unit_, embedding_unit_);
  norm_ = nn::RmsNorm(nn::Scope(layout, head_unit_, "model"), "norm", config_.hidden_size, config_.rms_norm_eps);
  lm_head_ = config_.tie_word_embeddings
                 ? nn::Linear::tied("lm_head", embedding_.weight())
                 : nn::Linear(nn::Scope(layout, head_unit_, ""), "lm_head", config_.hidden_size, config_.vocab_size,
                              false, nn::Init::normal(config_.initializer_range));
  if (!config_.tie_word_embeddings) layout.mark_row_matrix(head_unit_, lm_head_.state().weight);
}

at::Tensor Llama::embed(const at::Tensor& ids, nn::UnitRunner& runner) const {
  require_ids(ids, config_.vocab_size);
  const nn::Embedding& table = embedding_;
  return runner.run(embedding_unit_, {}, [ids, table](const nn::Tensors&) { return nn::Tensors{table(ids)}; }).at(0);
}

at::Tensor Llama::decode(const at::Tensor& embeddings, const at::Tensor& own_mask, nn::UnitRunner& runner,
                         const nn::ForwardContext& ctx, const DecodeOptions& options) const {
  const auto tensor = embeddings.options().requires_grad(false);
  const std::int64_t queries = embeddings.size(1);
  const std::int64_t prefix = layers_.empty() ? 0 : layers_.front().prefix_length();
  const std::int64_t past = prefix + (options.cache != nullptr ? options.cache->length() : 0);
  const bool no_mask = options.rows.defined() && past == prefix && nn::padded_on_the_right(own_mask);
  const at::Tensor mask = nn::mask_with_prefix(no_mask ? at::ones_like(own_mask) : own_mask, prefix);
  const auto pass = std::make_shared<LlamaPass>();
  pass->cache = options.cache;
  if (options.positions.defined()) {
    pass->rope = nn::rope_tables_at(config_.rope, options.positions.add(prefix), tensor);
  } else if (past == 0) {
    pass->rope = nn::rope_tables(config_.rope, queries, tensor);
  } else {
    const auto longs = at::TensorOptions().dtype(at::kLong).device(embeddings.device());
    pass->rope = nn::rope_tables_at(config_.rope, at::arange(past, past + queries, longs), tensor);
  }
  pass->mask = nn::causal_mask(mask, queries, 0, tensor);
  if (config_.window > 0) pass->windowed = nn::causal_mask(mask, queries, config_.window, tensor);
  return run_layers(layers_, layer_units_, pass, embeddings, runner, ctx, options);
}

}  // namespace tessera::models
