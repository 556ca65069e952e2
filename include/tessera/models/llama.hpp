#pragma once
/// LLaMA: decoder-only language model (grouped-query attention, rotary positions, SwiGLU), transformers' names.
///
/// Shapes: B rows, T positions, D hidden, V vocabulary.
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "tessera/nn/context.hpp"
#include "tessera/nn/functional.hpp"
#include "tessera/nn/layers.hpp"
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
  bool attention_bias = false;
  nn::Activation activation = nn::Activation::silu;
  nn::RopeConfig rope;
  /// Both generations of transformers' config.json (rope_theta and rope_scaling, or rope_parameters). Throws
  /// RequestError naming the key that is missing, malformed or not supported.
  static LlamaConfig from_json(const nlohmann::json& json);
};

/// One decoder layer: x + attention(norm x), then x + mlp(norm x).
class LlamaLayer {
 public:
  LlamaLayer(const nn::Scope& scope, const LlamaConfig& config);
  /// x [B,T,D]; bias: see nn::causal_padding_bias.
  at::Tensor operator()(const at::Tensor& x, const nn::RopeTables& rope, const std::optional<at::Tensor>& bias,
                        const nn::ForwardContext& ctx) const;

 private:
  at::Tensor attend(const at::Tensor& x, const nn::RopeTables& rope, const std::optional<at::Tensor>& bias,
                    const nn::ForwardContext& ctx) const;

  std::int64_t heads_;
  std::int64_t kv_heads_;
  nn::Activation activation_;
  nn::RmsNorm input_norm_, post_norm_;
  nn::Linear q_, k_, v_, o_, gate_, up_, down_;
};

/// The model in three stages, so that a multimodal model can put its own units between them: `add_embedding`, then
/// `add_decoder` (layers and head), in the order in which forward uses them.
class Llama {
 public:
  explicit Llama(LlamaConfig config) : config_(std::move(config)) {}
  void add_embedding(nn::ModelLayout& layout);
  void add_decoder(nn::ModelLayout& layout);

  /// i64 [B,T] to [B,T,D]. Ids must lie in [0, V): throws RequestError otherwise.
  at::Tensor embed(const at::Tensor& ids, nn::UnitRunner& runner) const;
  /// Embeddings [B,T,D] through all layers, before the final norm. mask: bool [B,T], false where padded; positions
  /// count from 0 whatever is padded. `trace`, when given, receives the input of every layer.
  at::Tensor decode(const at::Tensor& embeddings, const at::Tensor& mask, nn::UnitRunner& runner,
                    const nn::ForwardContext& ctx, nn::Tensors* trace = nullptr) const;

  /// The unit of final norm and head; `final_norm` and `head` may be called inside UnitRunner::run of it only.
  nn::UnitId head_unit() const { return head_unit_; }
  at::Tensor final_norm(const at::Tensor& x) const { return norm_(x); }
  at::Tensor head(const at::Tensor& normed, const nn::ForwardContext& ctx) const { return lm_head_(normed, ctx); }

  /// Sum of the cross-entropies of the head's logits, which are not kept. normed [n,D], targets i64 [n].
  at::Tensor head_loss(const at::Tensor& normed, const at::Tensor& targets, const nn::ForwardContext& ctx) const {
    return lm_head_.cross_entropy_sum(normed, targets, ctx);
  }

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

/// Sum of cross-entropies in fp32: logits [n,V], targets i64 [n]. 0 for n = 0.
at::Tensor cross_entropy_sum(const at::Tensor& logits, const at::Tensor& targets);

/// Positions p of the flattened [B*T] sequence whose next token carries a label, and those labels.
struct NextTokenTargets {
  at::Tensor positions;  ///< i64 [n]
  at::Tensor targets;    ///< i64 [n]
};
/// labels i64 [B,T], -100 ignored.
NextTokenTargets next_token_targets(const at::Tensor& labels);

}  // namespace tessera::models
