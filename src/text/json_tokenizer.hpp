#pragma once
/// tokenizer.json, the file of the tokenizers library, as far as byte-level BPE goes.
#include <nlohmann/json_fwd.hpp>

#include "text/byte_bpe.hpp"
#include "text/folder.hpp"

namespace tessera::text {

struct JsonTokenizerFile {
  bool normalises = false;  ///< NFC
  std::vector<std::pair<std::string, std::int64_t>> vocabulary;
  std::vector<Merge> merges;
  BpeSettings settings;
  std::vector<AddedToken> added;
  std::vector<std::string> front, back;  ///< what the post-processor puts around every text
};

/// Throws RequestError naming the file and the part that is malformed or of a kind not known here.
JsonTokenizerFile parse_tokenizer_json(const nlohmann::json& root, const std::filesystem::path& file);

}  // namespace tessera::text
