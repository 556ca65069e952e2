#pragma once
/// Adapters over a model whose head is its embedding. PEFT wraps the two apart: an adapter on one of them, or one that
/// was trained whole, leaves the other as it is. Such a model has a head of its own from then on, which begins as the
/// embedding.
/// Source: huggingface/peft tuners/tuners_utils.py (the warning about tied target modules), utils/other.py
/// (ModulesToSaveWrapper).
#include <filesystem>
#include <vector>

#include "tessera/core/json.hpp"
#include "tessera/io/sources.hpp"

namespace tessera::adapt {

/// Whether one of PEFT's folders changes the embedding or the head and not both alike. Weights of the vocabulary that
/// PEFT saved along (save_embedding_layers), or kept one (ensure_weight_tying), count as alike. Throws RequestError
/// where there is no adapter, and for a head that PEFT keeps one with the embedding by its own name.
bool parts_head(const std::vector<std::filesystem::path>& adapters);

/// `files` with a head under the name it has beside their embedding, and the embedding's values. Throws RequestError
/// for a family of models that has no such head (MPT).
io::SourcePtr with_own_head(const io::SourcePtr& files);

}  // namespace tessera::adapt
