#pragma once
// Small safetensors files for the tests of this room.
#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "tessera/io/safetensors.hpp"

namespace tessera::io::testing {

/// A file of one-dimensional u8 tensors, each three elements of one value.
inline void write_bytes_file(const std::filesystem::path& path,
                             const std::vector<std::pair<std::string, std::uint8_t>>& tensors) {
  std::vector<TensorInfo> table;
  for (const auto& [name, value] : tensors) table.push_back({name, Elem::u8, {3}});
  std::filesystem::create_directories(path.parent_path());
  SafetensorsWriter writer(path, table);
  for (const auto& [name, value] : tensors) {
    const std::uint8_t bytes[3] = {value, value, value};
    writer.write(name, 0, 3, bytes);
  }
  writer.commit();
}

inline int first_byte(const TensorSource& source, const std::string& name) {
  const TensorInfo* info = source.find(name);
  if (info == nullptr) return -1;
  std::uint8_t value = 0;
  source.read(*info, 0, 1, &value);
  return value;
}

}  // namespace tessera::io::testing
