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
  std::vector<std::int32_t> sample_image, sample_source, sample_draw;
  std::vector<std::int64_t> sample_item, sample_conversations, sample_targets, sample_ignore;
  std::vector<std::uint8_t> sample_is_sentence;
  std::vector<std::int64_t> conversation_ids, conversation_text, conversation_question;  ///< offsets [C+1]
  std::vector<std::int64_t> target_mask;
  std::vector<std::int32_t> mask_height, mask_width;
  std::vector<std::int64_t> mask_counts;  ///< offsets [M+1]
};

/// Reads and checks. Throws RequestError naming the file and the table.
ShardIndex read_shard_index(const io::H5File& file);

}  // namespace tessera::data
