#pragma once
// What `tessera forward` writes of a language model, with or without pictures before it.
#include "forward_models.hpp"
#include "tessera/models/language_config.hpp"
#include "tessera/models/language_model.hpp"

namespace tessera::models {

/// Mask and labels of a batch of text, shaped like the sequence [B,T].
struct LanguageTargets {
  at::Tensor mask;       ///< bool
  at::Tensor labels;     ///< i64 or undefined
  at::Tensor cotangent;  ///< [B,T,V] or undefined
};

/// `files` as adapters need them: where the head is the embedding and they part the two, the config no longer says so
/// and there is a head of its own.
io::SourcePtr untied_for(const std::vector<std::filesystem::path>& adapters, LanguageConfig& config,
                         io::SourcePtr files);

/// Runs layers and head on embeddings [B,T,D]: hidden_states.i, last_hidden_state, logits, loss. The objective is the
/// mean cross-entropy over the labels, or the sum of cotangent times logits.
ForwardModel::Result run_language(const LanguageModel& model, const at::Tensor& embeddings,
                                  const LanguageTargets& targets, nn::UnitRunner& runner);

/// Text inputs of the recorded-run contract; throws RequestError where they do not fit each other.
struct LanguageInputs {
  at::Tensor ids;   ///< i64 [B,T]
  at::Tensor mask;  ///< undefined when there is none
  at::Tensor labels;
  at::Tensor cotangent;
};
LanguageInputs take_language_inputs(Inputs& inputs);

}  // namespace tessera::models
