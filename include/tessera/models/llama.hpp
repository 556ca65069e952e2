#pragma once
/// LLaMA and its kin Mistral and Qwen2: decoder-only language model (grouped-query attention, rotary positions,
/// SwiGLU), transformers' names.
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
#include "tessera/nn/functional.hpp"
#include "tessera/nn/layers.hpp"
#include "tessera/nn/prefix.hpp"
#include "tessera/nn/runner.hpp"

namespace tessera::models {

struct LlamaConfig {
  std::int64_t vocab_size = 32000;
  std::int64_t hidden_size = 4096;
  std::int64_t intermediate_size = 11008;
  std::int64_t layers = 32;
  std::int64_t heads = 32;
  std::int64_t kv_heads = 32;
  std::int64_t head_dim = 128;
  double rms_norm_eps = 1e-6;
  double initializer_range = 0.02;
  bool tie_word_embeddings = false;
  bool qkv_bias = false;     ///< Qwen2, or LLaMA with attention_bias
  bool output_bias = false;  ///< LLaMA with attention_bias
  bool mlp_bias = false;
  /// Layers from first_windowed on see only the last `window` positions (Mistral, Qwen2 with use_sliding_window); 0:
  /// all.
  std::int64_t window = 0;
  std::int64_t first_windowed = 0;
  nn::Activation activation = nn::Activation::silu;
  nn::RopeConfig rope;

  enum class Family : std::uint8_t { llama, mistral, qwen2 };
  /// Both generations of transformers' config.json (rope_theta and rope_scaling, or rope_parameters). `where` names the
  /// object in messages. class_defaults: what is absent is what transformers' class has (a text_config lists only what
  /// differs from it); otherwise the sizes must be there. Throws RequestError naming the key that is missing, malformed
  /// or not supported.
  static LlamaConfig from_json(const nlohmann::json& json, Family family = Family::llama,
                               const std::string& where = "config.json", bool class_defaults = false);
};

/// What the layers of one call share.
struct LlamaPass {
  nn::RopeTables rope;
  nn::CausalMask mask;      ///< of layers that see everything
  nn::CausalMask windowed;  ///< of the others
  nn::KeyValueCache* cache = nullptr;
};

/// One decoder layer: x + attention(norm x), then x + mlp(norm x).
class LlamaLayer {
 public:
  LlamaLayer(const nn::Scope& scope, const LlamaConfig& config, std::int64_t index);
  /// x [B,T,D] to the same, or to [n,D] where the call asks for rows.
  at::Tensor operator()(const at::Tensor& x, const LlamaPass& pass, const nn::ForwardContext& ctx,
                        const LayerCall& call = {}) const;
  std::int64_t prefix_length() const { return attention_->prefix_length(); }

 private:
  at::Tensor mix(const at::Tensor& x, const LlamaPass& pass, const nn::ForwardContext& ctx) const;

  std::size_t index_;
  bool windowed_;
  std::int64_t heads_;
  std::int64_t kv_heads_;
  nn::Activation activation_;
  std::shared_ptr<nn::AttentionState> attention_;
  nn::RmsNorm input_norm_, post_norm_;
  nn::Linear q_, k_, v_, o_, gate_, up_, down_;
};

class Llama final : public LanguageModel {
 public:
  explicit Llama(LlamaConfig config) : config_(std::move(config)) {}
  void add_embedding(nn::ModelLayout& layout) override;
  void add_decoder(nn::ModelLayout& layout) override;

  using LanguageModel::decode;
  at::Tensor embed(const at::Tensor& ids, nn::UnitRunner& runner) const override;
  at::Tensor decode(const at::Tensor& embeddings, const at::Tensor& mask, nn::UnitRunner& runner,
                    const nn::ForwardContext& ctx, const DecodeOptions& options) const override;

  nn::UnitId head_unit() const override { return head_unit_; }
  at::Tensor final_norm(const at::Tensor& x) const override { return norm_(x); }
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
  const LlamaConfig& config() const { return config_; }

 private:
  LlamaConfig config_;
  nn::UnitId embedding_unit_ = -1;
  nn::UnitId head_unit_ = -1;
  std::vector<nn::UnitId> layer_units_;
  nn::Embedding embedding_;
  std::vector<LlamaLayer> layers_;
  nn::RmsNorm norm_;
  nn::Linear lm_head_;
};

}  // namespace tessera::models
