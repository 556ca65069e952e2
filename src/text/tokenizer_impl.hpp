#pragma once
/// What the kinds of tokenizer share, and the one thing in which they differ: encode and decode.
#include <set>

#include "text/added_tokens.hpp"

namespace tessera::text {

struct Tokenizer::Impl {
  virtual ~Impl() = default;
  /// Pieces of the text without BOS and EOS.
  virtual void tokenize(std::string_view text, Encoding& out) const = 0;
  virtual std::string decode(const std::vector<std::string>& pieces) const = 0;

  std::string piece_of(std::int64_t id) const;
  std::optional<std::int64_t> id_of(std::string_view token) const;
  std::int64_t require_id(std::string_view token) const;
  std::optional<std::int64_t> role_id(Role role) const;
  /// Added tokens under the release's rules, BOS, EOS, clean-ups; `model` and `release` are set.
  void take_slow_settings(const Folder& from, const TokenizerRules& rules, const ClassDefaults& defaults);
  /// To be called once everything but the hash and the lists derived from `added` is set.
  void finish(const TokenizerRules& rules, const std::vector<std::string>& hashed_files);

  std::filesystem::path folder;
  std::unique_ptr<const Model> model;
  AddedTokens added;
  std::vector<AddedToken> added_list;
  std::set<std::string, std::less<>> special;  ///< contents of all special tokens
  std::set<std::int64_t> special_ids;
  Release release = Release::transformers_4_37;
  bool legacy = true;
  std::vector<std::string> front, back;  ///< tokens put around every text: BOS, EOS
  bool clean_up = false;
  bool space_between = true;
  std::string hash;
};

/// English clean-up of spaces before punctuation, as clean_up_tokenization does it.
std::string clean_up_spaces(std::string text);

std::unique_ptr<const Tokenizer::Impl> make_sentencepiece_tokenizer(const Folder& folder, const TokenizerRules& rules);
std::unique_ptr<const Tokenizer::Impl> make_bpe_tokenizer(const Folder& folder, const TokenizerRules& rules);
std::unique_ptr<const Tokenizer::Impl> make_json_tokenizer(const Folder& folder, const TokenizerRules& rules);
/// The one of these that the folder's kind asks for.
std::unique_ptr<const Tokenizer::Impl> make_tokenizer(const Folder& folder, const TokenizerRules& rules);

}  // namespace tessera::text
