#pragma once
/// Byte-level BPE, as GPT-2 introduced it: bytes are written as visible characters, words are cut out by regular
/// expressions, and pairs are merged by rank.
#include <array>
#include <functional>
#include <unordered_map>

#include "text/model.hpp"
#include "text/regex.hpp"

namespace tessera::text {

inline constexpr const char* kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
inline constexpr const char* kQwen2Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

/// A cut that one expression makes.
struct Cut {
  Regex regex;
  bool keep_matches = true;  ///< false: what matches is dropped (tokenizer.json's "Removed")
  bool keep_rest = true;     ///< false: what does not match is dropped (slow tokenizers' findall)
};

struct BpeSettings {
  std::vector<Cut> cuts;          ///< applied one after another
  bool add_prefix_space = false;  ///< a space goes in front of a segment that has none
  std::string unk_token;          ///< for a byte that the vocabulary lacks; "": it is left out
  bool fuse_unk = false;
};

using Merge = std::pair<std::string, std::string>;

class ByteBpe : public Model {
 public:
  /// Throws RequestError naming `where`: ids that are none, a merge whose parts or result the vocabulary lacks.
  ByteBpe(const std::vector<std::pair<std::string, std::int64_t>>& vocabulary, const std::vector<Merge>& merges,
          BpeSettings settings, const std::string& where);

  void encode(std::string_view segment, std::vector<std::int64_t>& ids,
              std::vector<std::string>& pieces) const override;
  std::optional<std::int64_t> id_of(std::string_view piece) const override;
  std::string piece_of(std::int64_t id) const override;
  std::int64_t size() const override { return static_cast<std::int64_t>(pieces_.size()); }
  std::string join(const std::vector<std::string>& pieces) const override;

 private:
  struct Target {
    std::int32_t rank;
    std::int32_t id;
  };
  struct StringHash {
    using is_transparent = void;
    std::size_t operator()(std::string_view text) const noexcept { return std::hash<std::string_view>{}(text); }
  };

  void encode_word(std::string_view word, std::vector<std::int64_t>& ids, std::vector<std::string>& pieces) const;
  void merge_short(std::vector<std::int32_t>& symbols) const;
  void merge_long(std::vector<std::int32_t>& symbols) const;
  const Target* find_merge(std::int32_t left, std::int32_t right) const;

  std::vector<std::string> pieces_;  ///< by id; "" where the vocabulary has a gap
  std::unordered_map<std::string, std::int32_t, StringHash, std::equal_to<>> ids_;
  std::unordered_map<std::uint64_t, Target> merges_;
  std::array<std::int32_t, 256> byte_ids_{};  ///< −1: no such piece
  std::optional<std::int32_t> unk_id_;
  BpeSettings settings_;
};

/// GPT-2's visible form of bytes, and back; what is no visible form of a byte stays as it is.
std::string show_bytes(std::string_view bytes);
std::string hide_bytes(std::string_view visible);

}  // namespace tessera::text
