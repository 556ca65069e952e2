#include "io/hdf5_seal.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <fstream>
#include <string_view>

#include "tessera/core/error.hpp"
#include "tessera/core/hash.hpp"

namespace tessera::io {
namespace {

constexpr std::string_view kMagic = "TESSEAL1";
constexpr std::size_t kHashAt = 8;
constexpr std::size_t kHashDigits = 32;
constexpr std::size_t kSizeAt = 40;
constexpr std::size_t kCountAt = 48;
constexpr std::size_t kRunsAt = 56;
constexpr std::size_t kMostRuns = (static_cast<std::size_t>(kSealBytes) - kRunsAt) / 16;

using Block = std::array<char, static_cast<std::size_t>(kSealBytes)>;

std::int64_t get(const Block& block, std::size_t at) {
  std::int64_t value = 0;
  std::memcpy(&value, block.data() + at, sizeof value);
  return value;
}

void put(Block& block, std::size_t at, std::int64_t value) {
  std::memcpy(block.data() + at, &value, sizeof value);
}

/// Of the block without its hash, and of the file between the runs.
std::string hash_of(Block block, const Runs& values, const InputFile& file) {
  std::fill_n(block.begin() + kHashAt, kHashDigits, '\0');
  Hash128 hash;
  hash.update(block.data(), block.size());
  std::vector<char> piece;
  std::int64_t at = kSealBytes;
  const auto until = [&](std::int64_t end) {
    constexpr std::int64_t kPiece = std::int64_t{1} << 20;
    for (; at < end; at += static_cast<std::int64_t>(piece.size())) {
      piece.resize(static_cast<std::size_t>(std::min(kPiece, end - at)));
      file.read(at, piece.data(), piece.size());
      hash.update(piece.data(), piece.size());
    }
  };
  for (const auto& [begin, end] : values) {
    until(begin);
    at = end;
  }
  until(file.size());
  return hash.hex();
}

}  // namespace

void seal(const std::filesystem::path& path, Runs values) {
  if (values.size() > kMostRuns) {
    throw RunError("'{}': a seal lists {} datasets at most, there are {}", path.string(), kMostRuns, values.size());
  }
  std::sort(values.begin(), values.end());
  const InputFile file(path);
  Block block{};
  std::copy(kMagic.begin(), kMagic.end(), block.begin());
  put(block, kSizeAt, file.size());
  put(block, kCountAt, static_cast<std::int64_t>(values.size()));
  for (std::size_t i = 0; i < values.size(); ++i) {
    put(block, kRunsAt + 16 * i, values[i].first);
    put(block, kRunsAt + 16 * i + 8, values[i].second);
  }
  const auto hash = hash_of(block, values, file);
  std::copy(hash.begin(), hash.end(), block.begin() + kHashAt);
  std::fstream out(path, std::ios::in | std::ios::out | std::ios::binary);
  out.write(block.data(), static_cast<std::streamsize>(block.size()));
  out.close();
  if (!out) throw RunError("cannot write '{}': {}", path.string(), std::strerror(errno));
}

bool check_seal(const InputFile& file) {
  if (file.size() < kSealBytes) return false;
  Block block{};
  file.read(0, block.data(), block.size());
  if (!std::equal(kMagic.begin(), kMagic.end(), block.begin())) return false;
  if (get(block, kSizeAt) != file.size()) {
    throw RequestError("'{}': truncated file, or one that was changed: it has {} bytes, {} were written",
                       file.path().string(), file.size(), get(block, kSizeAt));
  }
  const auto damaged = [&] {
    return RequestError("'{}': its structure is not what was written; copy or prepare it again", file.path().string());
  };
  const auto count = get(block, kCountAt);
  if (count < 0 || count > static_cast<std::int64_t>(kMostRuns)) throw damaged();
  Runs values;
  std::int64_t at = kSealBytes;
  for (std::size_t i = 0; i < static_cast<std::size_t>(count); ++i) {
    values.emplace_back(get(block, kRunsAt + 16 * i), get(block, kRunsAt + 16 * i + 8));
    if (values.back().first < at || values.back().second < values.back().first || values.back().second > file.size())
      throw damaged();
    at = values.back().second;
  }
  const auto hash = hash_of(block, values, file);
  if (!std::equal(hash.begin(), hash.end(), block.begin() + kHashAt)) throw damaged();
  return true;
}

}  // namespace tessera::io
