#pragma once
// The JSON files of a LLaVA that is composed.
#include <map>
#include <nlohmann/json.hpp>
#include <string>

#include "tessera/models/compose.hpp"

namespace tessera::models {

/// What the files say beyond the sources' own.
struct ComposedTokens {
  std::int64_t image = 0, pad = 0;
  std::int64_t rows = 0;  ///< of the vocabulary
};

/// The language model's config.json. Throws RequestError for a family that is not composed, or a quantised model.
nlohmann::json read_language_config(const std::filesystem::path& folder);
/// The vision part of a CLIP folder's config.json. Throws RequestError for another kind of tower.
nlohmann::json read_clip_config(const std::filesystem::path& folder);

/// "bf16" to "bfloat16".
std::string torch_name(io::Elem type);

/// config.json of transformers' Llava.
nlohmann::json composed_config(const ComposeRequest& request, const nlohmann::json& language,
                               const nlohmann::json& vision, const ComposedTokens& tokens, io::Elem type);
/// preprocessor_config.json, processor_config.json and, where the language model has one, generation_config.json.
std::map<std::string, nlohmann::json> processor_files(const ComposeRequest& request, const nlohmann::json& vision,
                                                      const ComposedTokens& tokens);

}  // namespace tessera::models
