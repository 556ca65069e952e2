#pragma once
/// One shard in memory and on disk: the tables of datasets/FORMAT.md. `prepare` fills a ShardData and writes it;
/// ShardFile (data/shard_file.hpp) reads it back.
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace tessera::data {

inline constexpr int kFormatMajor = 1;
inline constexpr int kFormatMinor = 0;
inline constexpr std::int32_t kImageToken = -200;
inline constexpr std::int32_t kIgnoreLabel = -100;

/// Root attributes.
struct ShardHeader {
  std::string split = "train";
  std::string tokenizer_hash;
  std::string conversation_template;
  std::int32_t seg_token_id = -1;
  std::int32_t im_start_id = -1;
  std::int32_t im_end_id = -1;
  std::int32_t pad_id = -1;
  std::int32_t bos_id = -1;
  std::int32_t eos_id = -1;
  bool use_mm_start_end = true;
  std::uint64_t seed = 0;
  std::string made_by;
  std::string plan;
};

/// Rows of different lengths, one after another.
template <class T>
struct Ragged {
  std::vector<T> values;
  std::vector<std::int64_t> offset{0};  ///< [rows + 1]

  void add(std::span<const T> row) {
    values.insert(values.end(), row.begin(), row.end());
    offset.push_back(static_cast<std::int64_t>(values.size()));
  }
  std::int64_t rows() const noexcept { return static_cast<std::int64_t>(offset.size()) - 1; }
};

struct RaggedText : Ragged<char> {
  void add(std::string_view text) { Ragged<char>::add(std::span(text.data(), text.size())); }
};

struct ShardData {
  struct Images {
    Ragged<std::uint8_t> bytes;
    std::vector<std::int32_t> height, width;
    RaggedText name;
    std::vector<std::uint64_t> digest;
  } images;
  struct Sources {
    RaggedText name, family;
  } sources;
  struct Samples {
    std::vector<std::int32_t> image, source;
    std::vector<std::int64_t> item;
    std::vector<std::int32_t> draw;
    std::vector<std::int8_t> is_sentence;
    std::vector<std::int64_t> conversation_offset{0}, target_offset{0}, ignore_mask;
  } samples;
  struct Conversations {
    Ragged<std::int32_t> ids;
    std::vector<std::int32_t> labels;  ///< [ids.values.size()]
    RaggedText text, question;
  } conversations;
  std::vector<std::int64_t> target_mask;
  struct Masks {
    Ragged<std::uint8_t> counts;
    std::vector<std::int32_t> height, width;
  } masks;
  RaggedText skipped;  ///< JSON objects
};

/// Writes the file whole: contiguous datasets with their checksums, no time stamps, so equal content gives equal bytes.
/// The caller names a temporary path and renames. Throws RunError naming the path when the file system refuses.
void write_shard(const std::filesystem::path& path, const ShardHeader& header, const ShardData& data);

}  // namespace tessera::data
