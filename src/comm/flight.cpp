#include "tessera/comm/flight.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <ostream>
#include <span>

#include "tessera/core/error.hpp"

namespace tessera::comm {

std::string describe(const FlightEntry& entry) {
  return fmt::format("{}: {}, sequence {}", entry.group.data(), describe(entry.call), entry.sequence);
}

FlightRing::FlightRing(std::size_t capacity) : ring_(capacity) {
  if (capacity == 0) throw RunError("comm: a flight ring needs room for at least one entry");
}

std::int64_t FlightRing::start(const Call& call, std::string_view group, std::int64_t sequence) {
  FlightEntry entry;
  entry.sequence = sequence;
  entry.call = call;
  std::copy_n(group.begin(), std::min(group.size(), entry.group.size() - 1), entry.group.begin());
  const std::lock_guard lock(mutex_);
  entry.id = next_id_++;
  entry.started = FlightEntry::Clock::now();
  ring_[static_cast<std::size_t>(entry.id) % ring_.size()] = entry;
  running_.emplace(entry.id, entry);
  return entry.id;
}

void FlightRing::finish(std::int64_t id) noexcept {
  const std::lock_guard lock(mutex_);
  const auto found = running_.find(id);
  if (found == running_.end()) return;
  found->second.finished = FlightEntry::Clock::now();
  last_finished_ = found->second;
  FlightEntry& slot = ring_[static_cast<std::size_t>(id) % ring_.size()];
  if (slot.id == id) slot = found->second;
  running_.erase(found);
}

std::optional<FlightEntry> FlightRing::oldest_running() const {
  const std::lock_guard lock(mutex_);
  if (running_.empty()) return std::nullopt;
  return running_.begin()->second;
}

std::optional<FlightEntry> FlightRing::last_finished() const {
  const std::lock_guard lock(mutex_);
  return last_finished_;
}

std::vector<FlightEntry> FlightRing::entries() const {
  const std::lock_guard lock(mutex_);
  std::vector<FlightEntry> all;
  for (const FlightEntry& entry : ring_) {
    if (entry.id >= 0) all.push_back(entry);
  }
  std::sort(all.begin(), all.end(), [](const FlightEntry& a, const FlightEntry& b) { return a.id < b.id; });
  return all;
}

void FlightRing::dump(std::ostream& out, std::size_t most) const {
  const auto now = FlightEntry::Clock::now();
  const auto ms = [](FlightEntry::Clock::duration span) {
    return std::chrono::duration<double, std::milli>(span).count();
  };
  const auto all = entries();
  for (const FlightEntry& entry : std::span(all).last(std::min(most, all.size()))) {
    out << fmt::format("{:>8} {}, started {:.1f} ms ago, ", entry.id, describe(entry), ms(now - entry.started));
    out << (entry.running() ? std::string("running\n")
                            : fmt::format("took {:.3f} ms\n", ms(entry.finished - entry.started)));
  }
}

}  // namespace tessera::comm
