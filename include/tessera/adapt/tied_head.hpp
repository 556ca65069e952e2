#pragma once
/// Adapters over a model whose head is its embedding. PEFT wraps the two apart: an adapter on one of them, or one that
/// was trained whole, leaves the other as it is. Such a model has a head of its own from then on, which begins as the
/// embedding. PEFT's ensure_weight_tying keeps them one, and then its file holds the weight under both names.
/// Source: huggingface/peft tuners/tuners_utils.py (the warning about tied target modules), utils/other.py
/// (ModulesToSaveWrapper).
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "tessera/core/json.hpp"
#include "tessera/io/sources.hpp"

namespace tessera::adapt {

/// Whether this layer is the embedding or the head of a language model.
bool is_vocabulary(const std::string& layer);

/// Whether these modules_to_save change the embedding or the head and not both alike. `keep_one`: ensure_weight_tying,
/// which PEFT follows for embed_tokens by that very name. Throws RequestError for lm_head with it and without
/// embed_tokens, which PEFT cannot wrap.
bool parts_head(const std::vector<std::string>& modules_to_save, bool keep_one);

/// Whether one of PEFT's folders changes the embedding or the head and not both alike. Weights of the vocabulary that
/// PEFT saved along (save_embedding_layers), or kept one (ensure_weight_tying), count as alike. Throws RequestError
/// where there is no adapter, and as the other.
bool parts_head(const std::vector<std::filesystem::path>& adapters);

/// `files` with a head under the name it has beside their embedding, and the embedding's values. Throws RequestError
/// where there is no embedding under a known name.
io::SourcePtr with_own_head(const io::SourcePtr& files);

/// Whether a config.json says, or its family takes for granted (MPT), that the head is the embedding.
bool is_tied(const nlohmann::json& config);
/// Says in a config.json that it is not.
void say_untied(nlohmann::json& config);

}  // namespace tessera::adapt
