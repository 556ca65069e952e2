#pragma once
// What the writer and the reader of shards agree on beside the tables themselves.
#include <cstddef>
#include <string>
#include <type_traits>

#include "tessera/io/hdf5.hpp"

namespace tessera::data {

inline constexpr char kFormatName[] = "tessera-shard";
inline constexpr char kChecksum[] = "xxh3";

template <class T>
constexpr io::H5Type h5_type() {
  if constexpr (std::is_same_v<T, std::uint8_t>) {
    return io::H5Type::u8;
  } else if constexpr (std::is_same_v<T, std::int32_t>) {
    return io::H5Type::i32;
  } else {
    static_assert(std::is_same_v<T, std::int64_t>);
    return io::H5Type::i64;
  }
}

/// XXH3-64 as 16 hexadecimal digits.
std::string checksum_text(const void* data, std::size_t bytes);

}  // namespace tessera::data
