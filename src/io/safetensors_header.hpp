#pragma once
// The JSON header of a safetensors file, as a table.
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tessera/io/safetensors.hpp"

namespace tessera::io {

struct HeaderEntry {
  TensorInfo info;
  std::int64_t begin = 0;  ///< bytes behind the header
  std::int64_t end = 0;
};

struct SafetensorsHeader {
  std::vector<HeaderEntry> entries;  ///< sorted by name
  Metadata metadata;
};

/// `data_bytes`: what the file holds behind the header. Throws RequestError that names `file`.
SafetensorsHeader parse_safetensors_header(std::string_view text, std::int64_t data_bytes, const std::string& file);

/// The header's text for entries in their order, padded with blanks to a multiple of 8 bytes.
std::string format_safetensors_header(const std::vector<HeaderEntry>& entries, const Metadata& metadata);

}  // namespace tessera::io
