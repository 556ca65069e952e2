#include "tessera/models/llama.hpp"

#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/full.h>
#include <ATen/ops/nonzero.h>

#include "tessera/core/error.hpp"

namespace tessera::models {

LlamaLayer::LlamaLayer(const nn::Scope& scope, const LlamaConfig& config)
    : heads_(config.heads), kv_heads_(config.kv_heads), activation_(config.activation) {
  const nn::Init init = nn::Init::normal(config.initializer_range);
  const std::int64_t d = config.hidden_size;
  const std::int64_t inner = config.intermediate_size;
  const std::int64_t q_dim = config.heads * config.head_dim;
  const std::int64_t kv_dim = config.kv_heads * config.head_dim;
  const nn::Scope attn = scope.child("self_attn");
  const nn::Scope mlp = scope.child("mlp");
  input_norm_ = nn::RmsNorm(scope, "input_layernorm", d, config.rms_norm_eps);
  q_ = nn::Linear(attn, "q_proj", d, q_dim, config.attention_bias, init);
  k_ = nn::Linear(attn, "k_proj", d, kv_dim, config.attention_bias, init);
  v_ = nn::Linear(attn, "v_proj", d, kv_dim, config.attention_bias, init);
  o_ = nn::Linear(attn, "o_proj", q_dim, d, config.attention_bias, init);
  post_norm_ = nn::RmsNorm(scope, "post_attention_layernorm", d, config.rms_norm_eps);
  gate_ = nn::Linear(mlp, "gate_proj", d, inner, false, init);
  up_ = nn::Linear(mlp, "up_proj", d, inner, false, init);
  down_ = nn::Linear(mlp, "down_proj", inner, d, false, init);
}

at::Tensor LlamaLayer::attend(const at::Tensor& x, const nn::RopeTables& rope, const std::optional<at::Tensor>& bias,
                              const nn::ForwardContext& ctx) const {
  const at::Tensor q = nn::apply_rope(nn::split_heads(q_(x, ctx), heads_), rope);
  const at::Tensor k = nn::apply_rope(nn::split_heads(k_(x, ctx), kv_heads_), rope);
  const at::Tensor v = nn::split_heads(v_(x, ctx), kv_heads_);
  return o_(nn::merge_heads(nn::attention(q, k, v, bias, true)), ctx);
}

at::Tensor LlamaLayer::operator()(const at::Tensor& x, const nn::RopeTables& rope,
                                  const std::optional<at::Tensor>& bias, const nn::ForwardContext& ctx) const {
  const at::Tensor h = x.add(attend(input_norm_(x), rope, bias, ctx));
  const at::Tensor normed = post_norm_(h);
  const at::Tensor inner = nn::activate(activation_, gate_(normed, ctx)).mul(up_(normed, ctx));
  return h.add(down_(inner, ctx));
}

void Llama::add_embedding(nn::ModelLayout& layout) {
  embedding_unit_ = layout.add_unit("model.embed_tokens");
  layout.mark_light(embedding_unit_, /*backward_reads_weights=*/config_.tie_word_embeddings);
  const nn::Scope scope(layout, embedding_unit_, "model");
  embedding_ = nn::Embedding(scope, "embed_tokens", config_.vocab_size, config_.hidden_size,
                             nn::Init::normal(config_.initializer_range));
}

void Llama::add_decoder(nn::ModelLayout& layout) {
  for (std::int64_t i = 0; i < config_.layers; ++i) {
    const std::string name = "model.layers." + std::to_string(i);
    layer_units_.push_back(layout.add_unit(name));
    layers_.emplace_back(nn::Scope(layout, layer_units_.back(), name), config_);
  }
  // A tied head is the embedding's weight, so the head runs in the embedding's unit, which is then gathered twice.
  head_unit_ = config_.tie_word_embeddings ? embedding_unit_ : layout.add_unit("lm_head");
  if (!config_.tie_word_embeddings) layout.mark_light(head_unit_);
  norm_ = nn::RmsNorm(nn::Scope(layout, head_unit_, "model"), "norm", config_.hidden_size, config_.rms_norm_eps);
  lm_head_ = config_.tie_word_embeddings
                 ? nn::Linear::tied("lm_head", embedding_.weight())
                 : nn::Linear(nn::Scope(layout, head_unit_, ""), "lm_head", config_.hidden_size, config_.vocab_size,
                              false, nn::Init::normal(config_.initializer_range));
}

at::Tensor Llama::embed(const at::Tensor& ids, nn::UnitRunner& runner) const {
  if (ids.numel() > 0) {
    const auto lowest = ids.min().item<std::int64_t>();
    const auto highest = ids.max().item<std::int64_t>();
    if (lowest < 0 || highest >= config_.vocab_size) {
      throw RequestError("input_ids: id {} is outside the vocabulary of {}", lowest < 0 ? lowest : highest,
                         config_.vocab_size);
    }
  }
  const nn::Embedding& table = embedding_;
  return runner.run(embedding_unit_, {}, [ids, table](const nn::Tensors&) { return nn::Tensors{table(ids)}; }).at(0);
}

at::Tensor Llama::decode(const at::Tensor& embeddings, const at::Tensor& mask, nn::UnitRunner& runner,
                         const nn::ForwardContext& ctx, nn::Tensors* trace) const {
  const auto options = embeddings.options().requires_grad(false);
  const nn::RopeTables rope = nn::rope_tables(config_.rope, embeddings.size(1), options);
  const std::optional<at::Tensor> bias = nn::causal_padding_bias(mask, options);
  at::Tensor x = embeddings;
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    if (trace != nullptr) trace->push_back(x);
    const LlamaLayer& layer = layers_[i];
    x = runner
            .run(layer_units_[i], {x},
                 [&layer, rope, bias, ctx](const nn::Tensors& in) {
                   return nn::Tensors{layer(in.at(0), rope, bias, ctx)};
                 })
            .at(0);
  }
  return x;
}

at::Tensor cross_entropy_sum(const at::Tensor& logits, const at::Tensor& targets) {
  return at::cross_entropy_loss(logits.to(at::kFloat), targets, {}, at::Reduction::Sum);
}

NextTokenTargets next_token_targets(const at::Tensor& labels) {
  const std::int64_t rows = labels.size(0);
  const std::int64_t length = labels.size(1);
  // Position p of a row is scored by label p+1; the last position has none.
  const at::Tensor next = at::full({rows, length}, -100, labels.options());
  if (length > 1) next.narrow(1, 0, length - 1).copy_(labels.narrow(1, 1, length - 1));
  const at::Tensor flat = next.reshape({rows * length});
  const at::Tensor positions = at::nonzero(flat.ne(-100)).squeeze(1);
  return {positions, flat.index_select(0, positions)};
}

}  // namespace tessera::models
