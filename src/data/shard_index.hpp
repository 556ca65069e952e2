#pragma once
// The tables of an open shard, and the checks that they fit together.
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "tessera/data/shard.hpp"
#include "tessera/io/hdf5.hpp"

namespace tessera::data {

/// Everything of a shard but its bulk.
struct ShardIndex {
  ShardHeader header;
  std::vector<std::int32_t> image_height, image_width;
  std::vector<std::int64_t> image_bytes, image_name;  ///< offsets [I+1]
  std::vector<std::int64_t> image_digest;             ///< empty where the shard has none
  std::vector<std::string> source_name, source_family;
  std::vector<std::int32_t> sample_source, sample_draw, sample_words;  ///< sample_words: empty where it has none
  std::vector<std::int32_t> sample_image_row;                          ///< images of all samples
  std::vector<std::int64_t> sample_images;                             ///< offsets [S+1] into sample_image_row
  std::vector<std::int64_t> sample_digest;                             ///< empty where the shard has none
  std::vector<std::int64_t> sample_item, sample_conversations, sample_targets, sample_ignore;
  std::vector<std::uint8_t> sample_is_sentence;
  std::vector<std::int64_t> conversation_ids, conversation_text, conversation_question;  ///< offsets [C+1]
  std::vector<std::int64_t> target_mask;
  std::vector<std::int32_t> mask_height, mask_width;
  std::vector<std::int64_t> mask_counts;  ///< offsets [M+1]
  struct Features {
    TowerFeatures what;
    std::vector<std::int64_t> digest;  ///< [I]; empty where the shard has none
  };
  std::vector<Features> features;

  /// -1 for text alone.
  std::int32_t first_image(std::size_t sample) const {
    const auto begin = sample_images[sample];
    return begin == sample_images[sample + 1] ? -1 : sample_image_row[static_cast<std::size_t>(begin)];
  }
};

/// Reads and checks. Throws RequestError naming the file and the table.
ShardIndex read_shard_index(const io::H5File& file);

}  // namespace tessera::data
