#pragma once
/// MPT: decoder-only language model (ALiBi, norms without bias, fused query-key-value), names and numerics of
/// transformers' MptForCausalLM, which is also what LLaVA's MPT runs. Like transformers, it takes no notice of
/// attn_config.alibi, alibi_bias_max, prefix_lm, learned_pos_emb, logit_scale and no_bias.
///
/// Shapes: B rows, T positions, D hidden, V vocabulary.
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "tessera/models/language_model.hpp"
#include "tessera/nn/causal.hpp"
#include "tessera/nn/layers.hpp"
#include "tessera/nn/prefix.hpp"
#include "tessera/nn/runner.hpp"

namespace tessera::models {

struct MptConfig {  // the defaults are transformers' MptConfig
  std::int64_t vocab_size = 50368;
  std::int64_t hidden_size = 2048;        ///< d_model
  std::int64_t intermediate_size = 8192;  ///< expansion_ratio * d_model
  std::int64_t layers = 24;               ///< n_layers
  std::int64_t heads = 16;                ///< n_heads, any number that divides d_model
  double layer_norm_epsilon = 1e-5;
  double initializer_range = 0.02;
  std::optional<double> clip_qkv;       ///< attn_config.clip_qkv: bound of query, key and value
  std::optional<double> softmax_scale;  ///< attn_config.softmax_scale; absent: (D/heads)^-0.5
  bool tie_word_embeddings = true;
  /// `where` and class_defaults: see LlamaConfig::from_json. Throws RequestError naming the key; attn_config.qk_ln true
  /// is not supported.
  static MptConfig from_json(const nlohmann::json& json, const std::string& where = "config.json",
                             bool class_defaults = false);
};

/// What the layers of one call share.
struct MptPass {
  nn::CausalMask mask;
  nn::KeyValueCache* cache = nullptr;
};

class MptLayer {
 public:
  MptLayer(const nn::Scope& scope, const MptConfig& config, std::int64_t index);
  /// x [B,T,D] to the same, or to [n,D] where the call asks for rows.
  at::Tensor operator()(const at::Tensor& x, const MptPass& pass, const nn::ForwardContext& ctx,
                        const LayerCall& call = {}) const;
  std::int64_t prefix_length() const { return attention_->prefix_length(); }

 private:
  at::Tensor mix(const at::Tensor& x, const MptPass& pass, const nn::ForwardContext& ctx) const;

  std::size_t index_;
  std::int64_t heads_;
  double eps_;
  std::optional<double> clip_qkv_;
  std::optional<double> softmax_scale_;
  std::shared_ptr<nn::AttentionState> attention_;
  nn::Param norm_1_, norm_2_;
  nn::Linear qkv_, out_, up_, down_;
};

class Mpt final : public LanguageModel {
 public:
  explicit Mpt(MptConfig config) : config_(std::move(config)) {}
  void add_embedding(nn::ModelLayout& layout) override;
  void add_decoder(nn::ModelLayout& layout) override;

  using LanguageModel::decode;
  at::Tensor embed(const at::Tensor& ids, nn::UnitRunner& runner) const override;
  /// ALiBi counts keys, so options.positions changes nothing.
  at::Tensor decode(const at::Tensor& embeddings, const at::Tensor& mask, nn::UnitRunner& runner,
                    const nn::ForwardContext& ctx, const DecodeOptions& options) const override;

  nn::UnitId head_unit() const override { return head_unit_; }
  at::Tensor final_norm(const at::Tensor& x) const override;
  at::Tensor head(const at::Tensor& normed, const nn::ForwardContext& ctx) const override {
    return lm_head_(normed, ctx);
  }
  using LanguageModel::head_loss;
  at::Tensor head_loss(const at::Tensor& normed, const at::Tensor& targets, const nn::ForwardContext& ctx,
                       double smoothing) const override {
    return lm_head_.cross_entropy_sum(normed, targets, ctx, smoothing);
  }

  std::int64_t vocab_size() const override { return config_.vocab_size; }
  std::int64_t hidden_size() const override { return config_.hidden_size; }
  std::int64_t layers() const override { return config_.layers; }

 private:
  MptConfig config_;
  nn::UnitId embedding_unit_ = -1;
  nn::UnitId head_unit_ = -1;
  std::vector<nn::UnitId> layer_units_;
  nn::Embedding embedding_;
  std::vector<MptLayer> layers_;
  nn::Param norm_f_;
  nn::Linear lm_head_;
};

}  // namespace tessera::models
