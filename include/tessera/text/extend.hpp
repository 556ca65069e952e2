#pragma once
/// A tokenizer folder with special tokens added on disk, so that every program that reads it has the same ids.
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "tessera/text/tokenizer.hpp"

namespace tessera::text {

struct TokenizerAdditions {
  std::vector<std::string> special =
      {};                            ///< appended in this order where the vocabulary lacks them, special, not stripping
  std::string pad = {};              ///< the pad token of a folder that declares none, appended last; empty: none
  std::string processor_class = {};  ///< for tokenizer_config.json; empty: none
  std::string tokenizer_class = {};  ///< for a folder that says nothing of its class; empty: none
};

struct ExtendedTokenizer {
  Tokenizer tokenizer;      ///< with the tokens
  std::int64_t pad_id = 0;  ///< of the folder's own pad token, else of the one added
  /// What the new folder holds, by name: the model's files as they are; tokenizer.json (where there is one),
  /// tokenizer_config.json, special_tokens_map.json and added_tokens.json with the tokens, every other key as it was.
  std::map<std::string, std::string> files;
};

/// Throws RequestError: no tokenizer there, a malformed file, ids that contradict, no pad token and none to add.
ExtendedTokenizer extend_tokenizer(const std::filesystem::path& folder, const TokenizerAdditions& additions);

}  // namespace tessera::text
