#include "shard/schedule.hpp"

#include <algorithm>

namespace tessera::shard {

namespace {
bool contains(const std::vector<int>& groups, int group) {
  return std::find(groups.begin(), groups.end(), group) != groups.end();
}
}  // namespace

std::vector<int> Schedule::ahead(std::size_t position) const {
  std::vector<int> out;
  if (!recorded_) return out;
  const auto end = std::min(order_.size(), position + static_cast<std::size_t>(prefetch_));
  for (std::size_t i = position; i < end; ++i) {
    for (const int group : use_->of_unit[static_cast<std::size_t>(order_[i])]) {
      if (!contains(out, group)) out.push_back(group);
    }
  }
  return out;
}

std::size_t Schedule::distance(int group, std::size_t position) const {
  for (std::size_t i = 0; i < order_.size(); ++i) {
    const auto unit = static_cast<std::size_t>(order_[(position + i) % order_.size()]);
    if (contains(use_->of_unit[unit], group)) return i;
  }
  return order_.size();
}

std::vector<int> Schedule::surplus(std::size_t position, const std::vector<int>& idle) const {
  if (!recorded_) return idle;
  // The unit of the very next call stays even without prefetching: the last of forward is the first of backward.
  auto needed = ahead(position);
  if (position < order_.size()) {
    const auto& next = use_->of_unit[static_cast<std::size_t>(order_[position])];
    needed.insert(needed.end(), next.begin(), next.end());
  }
  std::vector<std::pair<std::size_t, int>> others;  // (distance, group)
  for (const int group : idle) {
    if (!contains(needed, group)) others.emplace_back(keep_bytes_ > 0 ? distance(group, position) : 0, group);
  }
  std::sort(others.begin(), others.end());
  std::vector<int> out;
  std::int64_t kept = 0;
  for (const auto& [far, group] : others) {
    const auto bytes = use_->bytes[static_cast<std::size_t>(group)];
    if (far < order_.size() && kept + bytes <= keep_bytes_) {
      kept += bytes;
    } else {
      out.push_back(group);
    }
  }
  return out;
}

}  // namespace tessera::shard
