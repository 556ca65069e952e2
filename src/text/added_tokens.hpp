#pragma once
/// The tokens that are cut out of a text before its model sees it, under either release's rules.
#include <map>

#include "text/folder.hpp"
#include "text/model.hpp"

namespace tessera::text {

struct AddedTokens {
  std::map<std::int64_t, AddedToken> tokens;                  ///< by id
  std::map<std::string, std::int64_t, std::less<>> ids;       ///< by content
  std::array<std::optional<std::string>, kRoles> roles = {};  ///< bos_token, eos_token, …
  std::vector<std::string> additional;                        ///< additional_special_tokens
  std::int64_t size = 0;  ///< rows an embedding needs: the base vocabulary and what lies beyond it

  const AddedToken* find(std::string_view content) const;
  const AddedToken* find(std::int64_t id) const;
  /// Appends a token, or marks one that the vocabulary has already.
  void add(AddedToken token, const Model& model);
};

/// What the class itself declares when the files do not, e.g. <s>, </s>, <unk> for LLaMA.
struct ClassDefaults {
  std::array<std::optional<std::string>, kRoles> roles = {};
  bool add_bos = false, add_eos = false;
  bool clean_up = true;
  bool space_between = true;  ///< decode: a space between added tokens and their neighbours
};

AddedTokens added_tokens_4_31(const Folder& folder, const ClassDefaults& defaults, const Model& model);
AddedTokens added_tokens_4_37(const Folder& folder, const ClassDefaults& defaults, const Model& model);

/// Cuts a text at added tokens: the leftmost match, among those the longest.
class Splitter {
 public:
  explicit Splitter(std::vector<AddedToken> tokens);
  struct Part {
    std::string_view text;
    const AddedToken* token = nullptr;  ///< null: ordinary text
  };
  std::vector<Part> split(std::string_view text) const;
  /// Longest token at `at`, or null.
  const AddedToken* match(std::string_view text, std::size_t at) const;

 private:
  std::vector<AddedToken> tokens_;
  std::array<std::vector<std::size_t>, 256> by_first_byte_;  ///< longest first
};

}  // namespace tessera::text
