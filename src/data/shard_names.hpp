#pragma once
// What the writer and the reader of shards agree on beside the tables themselves.
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>

#include "tessera/core/hash.hpp"
#include "tessera/io/hdf5.hpp"

namespace tessera::data {

inline constexpr char kFormatName[] = "tessera-shard";
inline constexpr char kChecksum[] = "xxh3";
inline const std::string kFeatures = "features/";

template <class T>
constexpr io::H5Type h5_type() {
  if constexpr (std::is_same_v<T, std::uint8_t>) {
    return io::H5Type::u8;
  } else if constexpr (std::is_same_v<T, std::uint16_t>) {
    return io::H5Type::u16;
  } else if constexpr (std::is_same_v<T, std::int32_t>) {
    return io::H5Type::i32;
  } else {
    static_assert(std::is_same_v<T, std::int64_t>);
    return io::H5Type::i64;
  }
}

/// XXH3-64, its bits taken as signed. A number, not a text: HDF5 keeps texts where a flipped bit can lead it astray.
inline std::int64_t checksum_of(const void* data, std::size_t bytes) noexcept {
  return static_cast<std::int64_t>(xxh3_64(data, bytes));
}

/// The digest of a sample: of its conversations' ids and labels, then of its masks' counts, one after another.
class SampleDigest {
 public:
  void add(std::span<const std::int32_t> values) { add(values.data(), values.size_bytes()); }
  void add(std::string_view text) { add(text.data(), text.size()); }
  std::int64_t value() const noexcept { return static_cast<std::int64_t>(xxh3_64(bytes_.data(), bytes_.size())); }

 private:
  void add(const void* data, std::size_t size) { bytes_.append(static_cast<const char*>(data), size); }
  std::string bytes_;
};

}  // namespace tessera::data
