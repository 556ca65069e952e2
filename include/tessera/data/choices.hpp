#pragma once
/// Choices: the random decisions behind one sample, in the order in which a reader takes them. They are recorded in the
/// shard, and a recorded list can be given back, which makes the same sample again.
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tessera/core/random.hpp"

namespace tessera::data {

class Choices {
 public:
  explicit Choices(RandomSequence random) : random_(random) {}
  /// Takes the given decisions one after another; a decision beyond the list or out of range throws RunError.
  explicit Choices(std::vector<std::int32_t> forced) : forced_(std::move(forced)), is_forced_(true) {}

  /// Uniform in [0, n), n > 0.
  std::int64_t pick(std::int64_t n);
  /// True with the given probability; recorded as 1 or 0.
  bool chance(double probability);
  /// k of 0 … n-1 in random order without repetition (all of them when k >= n).
  std::vector<std::int64_t> pick_several(std::int64_t n, std::int64_t k);

  const std::vector<std::int32_t>& taken() const noexcept { return taken_; }

 private:
  std::int32_t next_forced(std::int64_t bound);

  RandomSequence random_{0};
  std::vector<std::int32_t> forced_;
  std::vector<std::int32_t> taken_;
  bool is_forced_ = false;
};

/// The decisions of draw `draw` of an item: a function of the seed, the names and the draw alone.
inline Choices choices_of(std::uint64_t seed, std::string_view source, std::string_view item, std::int64_t draw) {
  return Choices(RandomSequence(mix_keys(seed, hash_name(source), hash_name(item), draw)));
}

}  // namespace tessera::data
