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
inline constexpr int kFormatMinor = 2;
inline constexpr std::uint8_t kSentenceUnknown = 255;

/// Root attributes.
struct ShardHeader {
  std::string split = "train";
  std::string tokenizer_hash;
  std::string conversation_template;
  std::string recipe = "lisa";  ///< whose rules made the labels, and who can train on it: "lisa" or "llava"
  std::int64_t seg_token_id = -1;
  std::int64_t im_start_id = -1;
  std::int64_t im_end_id = -1;
  std::int64_t pad_id = -1;
  std::int64_t bos_id = -1;
  std::int64_t eos_id = -1;
  bool use_mm_start_end = true;
  std::int64_t seed = 0;
  std::string made_by;
  std::string plan;
};

/// Rows of different lengths, one after another.
template <class T>
struct Ragged {
  std::vector<T> values;
  std::vector<std::int64_t> offsets{0};  ///< [rows + 1]

  void add(std::span<const T> row) {
    values.insert(values.end(), row.begin(), row.end());
    offsets.push_back(static_cast<std::int64_t>(values.size()));
  }
  std::int64_t rows() const noexcept { return static_cast<std::int64_t>(offsets.size()) - 1; }
};

struct RaggedText : Ragged<char> {
  void add(std::string_view text) { Ragged<char>::add(std::span(text.data(), text.size())); }
};

/// What a frozen vision tower makes of an image, and which tower made it.
struct TowerFeatures {
  std::string name;                 ///< "clip" or "sam"
  std::vector<std::int64_t> shape;  ///< of one image: [P,H], or [D,h,w]
  std::string input;                ///< how the image is brought to the tower and what is taken from it, in words
  std::uint64_t tower = 0;          ///< shard::source_digest of its weights
  std::int64_t numel() const noexcept;
  bool operator==(const TowerFeatures&) const = default;
};

struct FeatureTable {
  TowerFeatures what;
  std::vector<std::uint16_t> values;  ///< bits of bf16 [images, shape]
  std::vector<std::int64_t> digest;   ///< [images]
};

struct ShardData {
  struct Images {
    Ragged<std::uint8_t> bytes;
    std::vector<std::int32_t> height, width;
    RaggedText name;
    std::vector<std::int64_t> digest;
  } images;
  struct Sources {
    RaggedText name, family;
  } sources;
  struct Samples {
    std::vector<std::int32_t> image, source;  ///< image: its first one, -1 for text alone
    Ragged<std::int32_t> images;              ///< all of them, in the order of their places in the text
    std::vector<std::int32_t> words;          ///< length by which LLaVA's sampler groups
    std::vector<std::int64_t> digest;         ///< of ids, labels and masks
    std::vector<std::int64_t> item;
    std::vector<std::int32_t> draw;
    std::vector<std::uint8_t> is_sentence;
    std::vector<std::int64_t> conversation_offsets{0}, target_offsets{0}, ignore_mask;
    Ragged<std::int32_t> choices;
  } samples;
  struct Conversations {
    Ragged<std::int32_t> ids, labels;
    RaggedText text, question;
  } conversations;
  std::vector<std::int64_t> target_mask;
  struct Masks {
    Ragged<std::uint8_t> counts;
    std::vector<std::int32_t> height, width;
  } masks;
  std::vector<FeatureTable> features;
  RaggedText skipped;  ///< JSON objects
};

/// Writes the file, each dataset with its checksum; equal content gives equal bytes. It appears under `path` when it is
/// whole. Throws RunError naming the path when the file system refuses.
void write_shard(const std::filesystem::path& path, const ShardHeader& header, const ShardData& data);

}  // namespace tessera::data
