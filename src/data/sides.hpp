#pragma once
// Texts that a mirrored image would make false.
#include <string_view>

#include "tessera/data/shard_file.hpp"

namespace tessera::data {

/// Whether a word of the text begins with "left" or "right", in any case, or it has the Chinese characters for these.
bool speaks_of_sides(std::string_view text);

/// Whether the sample's image may be mirrored: one image, and texts that are stored and speak of no sides.
bool may_flip(const StoredSample& sample);

}  // namespace tessera::data
