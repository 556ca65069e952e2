#include "tessera/data/choices.hpp"

#include <numeric>

#include "tessera/core/error.hpp"

namespace tessera::data {

std::int32_t Choices::next_forced(std::int64_t bound) {
  const auto place = taken_.size();
  if (place >= forced_.size()) throw RunError("forced choices: {} given, one more is asked for", forced_.size());
  const auto value = forced_[place];
  if (value < 0 || value >= bound) throw RunError("forced choice {}: {} is not in [0, {})", place, value, bound);
  return value;
}

std::int64_t Choices::pick(std::int64_t n) {
  const auto value =
      is_forced_ ? next_forced(n) : static_cast<std::int32_t>(random_.below(static_cast<std::uint64_t>(n)));
  taken_.push_back(value);
  return value;
}

bool Choices::chance(double probability) {
  const bool yes = is_forced_ ? next_forced(2) == 1 : random_.uniform() < probability;
  taken_.push_back(yes ? 1 : 0);
  return yes;
}

std::vector<std::int64_t> Choices::pick_several(std::int64_t n, std::int64_t k) {
  std::vector<std::int64_t> pool(static_cast<std::size_t>(n));
  std::iota(pool.begin(), pool.end(), 0);
  std::vector<std::int64_t> picked;
  while (!pool.empty() && static_cast<std::int64_t>(picked.size()) < k) {
    const auto at = pool.begin() + pick(static_cast<std::int64_t>(pool.size()));
    picked.push_back(*at);
    pool.erase(at);
  }
  return picked;
}

}  // namespace tessera::data
