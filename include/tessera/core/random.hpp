#pragma once
/// Counter-based random numbers: value i of stream (seed, keys…) is a pure function, so initial weights, dropout and
/// sample order do not depend on the number of ranks, on the order of calls, or on a resume.
#include <array>
#include <cstdint>
#include <string_view>

namespace tessera {

/// SplitMix64's finaliser (Steele, Lea, Flood 2014): a bijection that mixes all bits.
constexpr std::uint64_t mix64(std::uint64_t z) noexcept {
  z += 0x9e3779b97f4a7c15ULL;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
  return z ^ (z >> 31);
}

template <class... Keys>
constexpr std::uint64_t mix_keys(std::uint64_t seed, Keys... keys) noexcept {
  ((seed = mix64(seed ^ mix64(static_cast<std::uint64_t>(keys)))), ...);
  return seed;
}

/// FNV-1a, for keys that are names. Stable across machines and versions.
constexpr std::uint64_t hash_name(std::string_view name) noexcept {
  std::uint64_t h = 0xcbf29ce484222325ULL;
  for (const char c : name) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001b3ULL;
  return h;
}

/// Random access stream: bits(i), uniform(i), normal(i) for any i.
class CounterStream {
 public:
  explicit constexpr CounterStream(std::uint64_t key) noexcept : key_(key) {}
  constexpr std::uint64_t bits(std::uint64_t i) const noexcept { return mix64(key_ ^ mix64(i)); }
  /// In [0, 1), 24 bits: exact in fp32.
  constexpr float uniform(std::uint64_t i) const noexcept { return static_cast<float>(bits(i) >> 40) * 0x1.0p-24F; }
  /// Standard normal by Box and Muller from bits(2i), bits(2i+1).
  float normal(std::uint64_t i) const noexcept;

 private:
  std::uint64_t key_;
};

/// Sequential draws, for choices while preparing or mixing data.
class RandomSequence {
 public:
  explicit RandomSequence(std::uint64_t key) noexcept : stream_(key) {}
  std::uint64_t next() noexcept { return stream_.bits(counter_++); }
  /// Uniform in [0, n), without modulo bias; n > 0.
  std::uint64_t below(std::uint64_t n) noexcept;
  /// In [0, 1) with 53 bits.
  double uniform() noexcept;

 private:
  CounterStream stream_;
  std::uint64_t counter_ = 0;
};

}  // namespace tessera
