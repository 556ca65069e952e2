#pragma once
// A shard made by hand: two photographs, three samples, four conversations, two masks.
#include "tessera/data/shard.hpp"

namespace tessera::data {

inline constexpr std::int64_t kSmallSeg = 500;

ShardHeader small_header();
ShardData small_shard();

}  // namespace tessera::data
