#pragma once
/// Tokenizer: text to ids and back, as the public tokenizer of a model folder does it.
///
/// A folder holds `tokenizer.model` (sentencepiece), or `tokenizer.json`, or `vocab.json` + `merges.txt` (byte-level
/// BPE), and beside it any of `tokenizer_config.json`, `special_tokens_map.json`, `added_tokens.json`, `config.json`.
/// Two releases of transformers are followed, since they treat white space around added tokens, non-legacy segments and
/// decoding differently: 4.31 (LISA's pin) and 4.37 (LLaVA's pin).
///
/// Every method is const and may be called from several threads at once.
/// Source: transformers 4.31.0 and 4.37.2 (slow LlamaTokenizer, Qwen2Tokenizer, GPT2Tokenizer), tokenizers 0.15.
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace tessera::text {

enum class Release {
  transformers_4_31,  ///< strips white space on both sides of added tokens that declare no flags
  transformers_4_37,  ///< strips only where a token's lstrip or rstrip says so
};

/// A token that is cut out of the text before the model sees it.
struct AddedToken {
  std::string content;
  std::int64_t id = -1;
  bool lstrip = false;       ///< swallows white space on its left
  bool rstrip = false;       ///< swallows white space on its right
  bool single_word = false;  ///< matches only where no word touches it
  bool normalized = false;   ///< matched in the normalised text (tokenizer.json only)
  bool special = false;      ///< left out by decode(…, skip_special)
};

/// What to add to, or to decide against, what the folder says.
struct TokenizerRules {
  std::optional<Release> release = {};  ///< default: 4.31 when the folder or `add` brings [SEG], else 4.37
  std::optional<bool> legacy = {};      ///< default: tokenizer_config.json's `legacy`, else true
  std::optional<bool> add_bos = {};     ///< default: tokenizer_config.json's `add_bos_token`, else the class's default
  std::vector<AddedToken> add = {};     ///< appended in memory when the vocabulary lacks them; ids are assigned
  bool drop_hash_merges = false;        ///< ignore merges that begin with '#', as 4.37's slow Qwen2Tokenizer does
};

/// Rules of LISA's programs: release 4.31, plus `[SEG]` and, with `start_end`, `<im_start>` and `<im_end>`.
TokenizerRules lisa_rules(bool start_end = true);

struct Encoding {
  std::vector<std::int64_t> ids;
  std::vector<std::string> pieces;  ///< one per id
};

class Tokenizer {
 public:
  struct Impl;
  explicit Tokenizer(std::unique_ptr<const Impl> impl);
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  /// Ids and pieces; BOS in front (EOS behind) when the folder or the rules say so. Throws RequestError: text that is
  /// not UTF-8.
  Encoding encode(std::string_view text) const;
  std::vector<std::int64_t> encode_ids(std::string_view text) const { return encode(text).ids; }

  /// Text of `ids`, with the release's spaces around added tokens and its clean-ups. Throws RequestError: an id that no
  /// token has.
  std::string decode(std::span<const std::int64_t> ids, bool skip_special = false) const;

  std::optional<std::int64_t> id_of(std::string_view token) const;
  /// Like id_of, but throws RequestError naming the folder when there is no such token.
  std::int64_t require_id(std::string_view token) const;
  std::string token_of(std::int64_t id) const;

  std::int64_t size() const;       ///< base vocabulary and added tokens: rows an embedding needs
  std::int64_t base_size() const;  ///< without added tokens
  std::optional<std::int64_t> bos_id() const;
  std::optional<std::int64_t> eos_id() const;
  std::optional<std::int64_t> unk_id() const;
  /// What batches are padded with: the unknown token, as LISA and LLaVA set it; where there is none, the folder's own
  /// pad token. Throws RequestError when there is neither.
  std::int64_t pad_id() const;

  bool legacy() const;  ///< sentencepiece: segments between added tokens each get a leading space
  bool adds_bos() const;
  Release release() const;
  const std::vector<AddedToken>& added_tokens() const;  ///< by id
  const std::filesystem::path& folder() const;

  /// 32 hex digits that change when any id could: XXH3-128 of the model's bytes, the added tokens and the rules.
  const std::string& content_hash() const;

 private:
  std::unique_ptr<const Impl> impl_;
};

/// Reads the tokenizer of a folder (or of a single `tokenizer.model` / `tokenizer.json` file).
/// Throws RequestError naming the file: missing, malformed, lying lengths, contradictory ids.
Tokenizer load_tokenizer(const std::filesystem::path& folder, const TokenizerRules& rules = {});

}  // namespace tessera::text
