#pragma once
/// A tokenizer folder as it lies on disk, before any release's rules are applied to it.
#include <array>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <utility>

#include "tessera/text/tokenizer.hpp"

namespace tessera::text {

/// A special token as a file declares it: a bare string, or an object with flags.
struct DeclaredToken {
  AddedToken token;      ///< id stays −1
  bool flagged = false;  ///< an object: its flags are meant
};

/// In the order in which the releases walk them.
enum Role : std::size_t { kBos, kEos, kUnk, kSep, kPad, kCls, kMask, kRoles };
inline constexpr std::array<const char*, kRoles> kRoleNames = {"bos_token", "eos_token", "unk_token", "sep_token",
                                                               "pad_token", "cls_token", "mask_token"};
struct SpecialTokens {
  std::array<std::optional<DeclaredToken>, kRoles> roles = {};
  std::array<bool, kRoles> named = {};  ///< the file has the key, be it null
  std::optional<std::vector<DeclaredToken>> additional = {};
};

enum class Kind { sentencepiece, tokenizer_json, vocab_and_merges };

struct Folder {
  std::filesystem::path path;  ///< as given
  Kind kind = Kind::sentencepiece;
  std::filesystem::path model_file;      ///< tokenizer.model, tokenizer.json or vocab.json
  std::filesystem::path merges_file;     ///< vocab_and_merges only
  std::filesystem::path tokenizer_json;  ///< beside another kind; empty when absent

  std::string
      tokenizer_class;  ///< without "Fast"; from tokenizer_config.json, else config.json's model_type; may be ""
  std::optional<bool> legacy, add_bos, add_eos, clean_up, add_prefix_space;
  SpecialTokens config;                                             ///< tokenizer_config.json
  std::optional<SpecialTokens> map;                                 ///< special_tokens_map.json
  std::optional<std::map<std::int64_t, AddedToken>> added_decoder;  ///< tokenizer_config.json's added_tokens_decoder
  std::vector<std::pair<std::string, std::int64_t>> added_tokens;   ///< added_tokens.json, by id
  std::vector<AddedToken> json_added;  ///< tokenizer.json's, where it lies beside the model and nothing else says more
};

/// Throws RequestError naming the file.
Folder read_folder(const std::filesystem::path& path);

/// tokenizer.json's `added_tokens`. Throws RequestError naming the file.
std::vector<AddedToken> parse_json_added(const nlohmann::json& tokenizer_json, const std::filesystem::path& file);

/// The rules' release; by default 4.31 where the folder or the rules bring [SEG], 4.37 elsewhere.
Release choose_release(const Folder& folder, const TokenizerRules& rules);

}  // namespace tessera::text
