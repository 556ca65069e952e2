#pragma once
/// LanguageModel: a decoder-only language model in stages, so that LLaVA and LISA put their own units between them and
/// know nothing of the family. LLaMA, Mistral and Qwen2 are models/llama.hpp, MPT is models/mpt.hpp.
///
/// Shapes: B rows, T positions, P past positions in a cache, D hidden, V vocabulary.
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>

#include "tessera/nn/context.hpp"
#include "tessera/nn/kv_cache.hpp"
#include "tessera/nn/runner.hpp"
#include "tessera/nn/upload.hpp"

namespace tessera::models {

struct DecodeOptions {
  /// i64 [B,T]; undefined: P, P+1, … in every row, whatever is padded (what transformers does when it is given none).
  at::Tensor positions;
  nn::KeyValueCache* cache = nullptr;  ///< its positions are the past, the new ones are added; without gradients
  nn::Tensors* trace = nullptr;        ///< receives the input of every layer
  /// i64 [n], positions of the flattened [B*T], none of them padded: the result is [n,D], theirs alone, and the last
  /// layer computes little else. Undefined: [B,T,D].
  at::Tensor rows;
};

/// What one call of a decoder's layer may leave out.
struct LayerCall {
  at::Tensor rows;    ///< i64 [n] of the flattened [B*T]: nothing else is returned; undefined: all
  bool value = true;  ///< false: recomputed for gradients, which do not depend on what the layer returns
};

class LanguageModel {
 public:
  virtual ~LanguageModel() = default;
  /// Units in the order in which forward uses them: the embedding, then (after the units of a vision tower) the layers
  /// and the head. Each is called once.
  virtual void add_embedding(nn::ModelLayout& layout) = 0;
  virtual void add_decoder(nn::ModelLayout& layout) = 0;

  /// i64 [B,T] to [B,T,D]. Ids must lie in [0, V): throws RequestError otherwise. In host memory, as a batch's text is,
  /// they spare a GPU the wait for that question; so does decode's mask.
  virtual at::Tensor embed(const at::Tensor& ids, nn::UnitRunner& runner) const = 0;
  /// Embeddings [B,T,D] through all layers, before the final norm. mask: bool [B,P+T], false where padded. Where
  /// options.rows asks for rows that are padded on their right alone, what is padded may be seen by what is padded.
  virtual at::Tensor decode(const at::Tensor& embeddings, const at::Tensor& mask, nn::UnitRunner& runner,
                            const nn::ForwardContext& ctx, const DecodeOptions& options) const = 0;
  at::Tensor decode(const at::Tensor& embeddings, const at::Tensor& mask, nn::UnitRunner& runner,
                    const nn::ForwardContext& ctx) const {
    return decode(embeddings, mask, runner, ctx, DecodeOptions{});
  }

  /// The unit of final norm and head; `final_norm`, `head` and `head_loss` may be called inside UnitRunner::run of it
  /// only.
  virtual nn::UnitId head_unit() const = 0;
  virtual at::Tensor final_norm(const at::Tensor& x) const = 0;
  virtual at::Tensor head(const at::Tensor& normed, const nn::ForwardContext& ctx) const = 0;
  /// Sum of the cross-entropies of the head's logits, which are not kept. normed [n,D], targets i64 [n]; smoothing: of
  /// the targets, as nn/weighted.hpp has it.
  virtual at::Tensor head_loss(const at::Tensor& normed, const at::Tensor& targets, const nn::ForwardContext& ctx,
                               double smoothing) const = 0;
  at::Tensor head_loss(const at::Tensor& normed, const at::Tensor& targets, const nn::ForwardContext& ctx) const {
    return head_loss(normed, targets, ctx, 0);
  }

  virtual std::int64_t vocab_size() const = 0;
  virtual std::int64_t hidden_size() const = 0;
  virtual std::int64_t layers() const = 0;
};

/// Throws RequestError naming the first id outside [0, vocab_size).
void require_ids(const at::Tensor& ids, std::int64_t vocab_size);

/// Sum of cross-entropies in fp32: logits [n,V], targets i64 [n], smoothed as in head_loss. 0 for n = 0.
at::Tensor cross_entropy_sum(const at::Tensor& logits, const at::Tensor& targets, double smoothing = 0);

/// Positions p of the flattened [B*T] sequence whose next token carries a label, and those labels.
struct NextTokenTargets {
  at::Tensor positions;  ///< i64 [n]
  at::Tensor targets;    ///< i64 [n]
  NextTokenTargets on(c10::Device device) const { return {nn::upload(positions, device), nn::upload(targets, device)}; }
};
/// labels i64 [B,T], -100 ignored. Both lie where the labels do.
NextTokenTargets next_token_targets(const at::Tensor& labels);

}  // namespace tessera::models
