#pragma once
// Zip archives byte by byte, so that a test can make one that lies.
#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace tessera::io::testing {

inline std::string little(std::uint64_t value, int bytes) {
  std::string out;
  for (int i = 0; i < bytes; ++i) out += static_cast<char>(value >> (8 * i));
  return out;
}

struct ZipOptions {
  std::uint16_t method = 0;
  std::uint16_t flags = 0;
  std::uint64_t size_lie = 0;       ///< added to every size in the directory
  std::uint64_t offset_lie = 0;     ///< added to every local offset
  std::uint64_t count_lie = 0;      ///< added to the number of entries
  std::uint64_t directory_lie = 0;  ///< added to the directory's offset
  bool zip64 = false;               ///< sizes and offsets in extra fields, zip64 end records
};

inline std::string build_zip(const std::vector<std::pair<std::string, std::string>>& entries, ZipOptions o = {}) {
  std::string file;
  std::string directory;
  for (const auto& [name, data] : entries) {
    const std::uint64_t local = file.size();
    file += "PK\x03\x04" + little(20, 2) + little(o.flags, 2) + little(o.method, 2) + little(0, 8) +
            little(data.size(), 4) + little(data.size(), 4) + little(name.size(), 2) + little(3, 2) + name + "abc" +
            data;
    const std::uint64_t size = data.size() + o.size_lie;
    const std::uint64_t offset = local + o.offset_lie;
    const std::string extra =
        o.zip64 ? little(1, 2) + little(24, 2) + little(size, 8) + little(size, 8) + little(offset, 8) : "";
    const std::uint64_t all = 0xffffffff;
    directory += "PK\x01\x02" + little(20, 2) + little(20, 2) + little(o.flags, 2) + little(o.method, 2) +
                 little(0, 8) + little(o.zip64 ? all : size, 4) + little(o.zip64 ? all : size, 4) +
                 little(name.size(), 2) + little(extra.size(), 2) + std::string(10, '\0') +
                 little(o.zip64 ? all : offset, 4) + name + extra;
  }
  const std::uint64_t begin = file.size() + o.directory_lie;
  const std::uint64_t count = entries.size() + o.count_lie;
  file += directory;
  if (o.zip64) {
    const std::uint64_t end64 = file.size();
    file += "PK\x06\x06" + little(44, 8) + little(45, 4) + little(0, 8) + little(count, 8) + little(count, 8) +
            little(directory.size(), 8) + little(begin, 8);
    file += "PK\x06\x07" + little(0, 4) + little(end64, 8) + little(1, 4);
    return file + "PK\x05\x06" + little(0, 4) + little(0xffffffff, 4) + little(0xffffffff, 4) + little(0xffffffff, 4) +
           little(0, 2);
  }
  return file + "PK\x05\x06" + little(0, 4) + little(count, 2) + little(count, 2) + little(directory.size(), 4) +
         little(begin, 4) + little(0, 2);
}

/// Protocol 0's text for {"w": tensor over float storage "0"}.
inline std::string tensor_pickle(const std::string& numel, const std::string& offset, const std::string& shape,
                                 const std::string& strides, const std::string& storage = "torch\nFloatStorage") {
  const auto tuple = [](const std::string& numbers) {
    std::string out = "(";
    for (std::size_t at = 0; at < numbers.size();) {
      const std::size_t end = std::min(numbers.find(',', at), numbers.size());
      out += "I" + numbers.substr(at, end - at) + "\n";
      at = end + 1;
    }
    return out + "t";
  };
  return "(dS'w'\nctorch._utils\n_rebuild_tensor_v2\n((S'storage'\nc" + storage + "\nS'0'\nS'cpu'\nI" + numel +
         "\ntQI" + offset + "\n" + tuple(shape) + tuple(strides) + "I00\nNtRs.";
}

}  // namespace tessera::io::testing
