#pragma once
// A dialogue as LLaVA's records hold it: a list of turns.
#include "data/annotation_json.hpp"
#include "tessera/data/sample.hpp"

namespace tessera::data {

/// `turns`: objects with `from` (human or gpt; user and assistant are taken too) and `value`, or with `role` and
/// `content` or `value`. A leading answer is dropped, then the roles must alternate. Texts are kept as they are; words
/// are counted over all turns. Throws BrokenSample naming the turn.
Conversation read_dialogue(const nlohmann::json& turns, const std::filesystem::path& path, const std::string& where);

}  // namespace tessera::data
