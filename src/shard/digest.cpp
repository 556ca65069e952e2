#include "shard/digest.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>

#include "tessera/core/random.hpp"

namespace tessera::shard {

namespace {

constexpr std::int64_t kBlock = 1024;

// The keys in halves: a 32-by-32-bit product is what vector units have.
struct Keys {
  std::array<std::uint32_t, kBlock> low{}, high{};
};

constexpr Keys make_keys() {
  Keys keys;
  for (std::size_t j = 0; j < kBlock; ++j) {
    const std::uint64_t k = mix_keys(0x7465737365726121ULL, j) | 1;  // odd: no element is without effect
    keys.low[j] = static_cast<std::uint32_t>(k);
    keys.high[j] = static_cast<std::uint32_t>(k >> 32);
  }
  return keys;
}
constexpr Keys kKeys = make_keys();

// Sum of K[first + i] * bits(values[i]), modulo 2^64.
std::uint64_t keyed_sum(std::size_t first, const float* values, std::size_t count) noexcept {
  std::uint64_t low = 0, high = 0;
  for (std::size_t i = 0; i < count; ++i) {
    const std::uint64_t x = std::bit_cast<std::uint32_t>(values[i]);
    low += kKeys.low[first + i] * x;
    high += kKeys.high[first + i] * x;
  }
  return low + (high << 32);
}

}  // namespace

std::uint64_t digest_piece(std::uint64_t key, std::int64_t numel, std::int64_t begin, const float* values,
                           std::int64_t count) noexcept {
  std::uint64_t digest = begin == 0 ? mix_keys(key, numel) : 0;
  for (std::int64_t done = 0; done < count;) {
    const std::int64_t at = begin + done;
    const std::int64_t first = at % kBlock;
    const std::int64_t n = std::min(kBlock - first, count - done);
    const std::uint64_t factor = mix_keys(key, 0x626c6f636bULL, at / kBlock) | 1;
    digest += factor * keyed_sum(static_cast<std::size_t>(first), values + done, static_cast<std::size_t>(n));
    done += n;
  }
  return digest;
}

}  // namespace tessera::shard
