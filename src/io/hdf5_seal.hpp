#pragma once
// The seal of an HDF5 file: its first 2048 bytes, which HDF5 skips. Little-endian:
//     bytes 0-7     "TESSEAL1"
//     bytes 8-39    XXH3-128 as 32 hexadecimal digits, of the 2048 bytes with zeros in this place, then of every other
//                   byte of the file but the values of the datasets listed next, in order
//     bytes 40-47   i64 size of the file
//     bytes 48-55   i64 n, number of the datasets whose values are one run of bytes
//     then          n pairs of i64, begin and end of a run, rising; zeros to the end
#include <cstdint>
#include <filesystem>
#include <utility>
#include <vector>

#include "tessera/core/file.hpp"

namespace tessera::io {

inline constexpr std::int64_t kSealBytes = 2048;

/// Begin and end of runs of bytes.
using Runs = std::vector<std::pair<std::int64_t, std::int64_t>>;

/// Writes the seal of a finished file. Throws RunError.
void seal(const std::filesystem::path& path, Runs values);

/// Whether the file has a seal. Throws RequestError when it has one and is not as it was sealed.
bool check_seal(const InputFile& file);

}  // namespace tessera::io
