#pragma once
/// LanguageConfig: the settings of a language model of any family, read from the config.json of a language model, of a
/// LLaVA in the original form (the language model's keys at the top) or of a text_config.
#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <variant>

#include "tessera/io/tensor_source.hpp"
#include "tessera/models/llama.hpp"
#include "tessera/models/mpt.hpp"

namespace tessera::models {

struct LanguageConfig {
  std::variant<LlamaConfig, MptConfig> family;

  std::int64_t vocab_size() const;
  std::int64_t hidden_size() const;
  void set_vocab_size(std::int64_t size);
  bool tied() const;  ///< the head is the embedding's weight
  /// What stands before the base model's own parts: "model" (LLaMA and kin), "transformer" (MPT). LLaVA and LISA hang
  /// their parts there as well: model.mm_projector, transformer.mm_projector.
  std::string base() const;
  std::string embedding_name() const;  ///< "model.embed_tokens", "transformer.wte"

  /// What weights, in any naming, say beyond the config. MPT: transformers' class is four times as wide inside whatever
  /// expansion_ratio says, MosaicML's is as it says, so the files decide. Throws RequestError naming a tensor of
  /// MosaicML's class that transformers' has not (biases, learned positions, norms of query and key).
  void fit_to_weights(const io::TensorSource& files);

  /// The family follows from model_type: llama, llava, llava_llama; mistral, llava_mistral; qwen2, llava_qwen2,
  /// llava_qwen; mpt, llava_mpt (and for `llava` from `architectures`). Throws RequestError naming the key.
  static LanguageConfig from_json(const nlohmann::json& json, const std::string& where = "config.json",
                                  bool class_defaults = false);
};

std::unique_ptr<LanguageModel> make_language_model(const LanguageConfig& config);

}  // namespace tessera::models
