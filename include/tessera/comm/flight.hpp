#pragma once
/// Flight: a record of the last collectives of this process, kept to explain a hang or an error.
/// Every communicator of a process writes to one ring, so the entries stand in the order in which they were started.
#include <array>
#include <chrono>
#include <cstdint>
#include <iosfwd>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tessera/comm/types.hpp"

namespace tessera::comm {

/// One collective as this process called it.
struct FlightEntry {
  using Clock = std::chrono::steady_clock;
  std::int64_t id = -1;        ///< counts all collectives of this process
  std::int64_t sequence = -1;  ///< counts the collectives of its communicator; equal on all its ranks
  Call call;
  std::array<char, 16> group{};  ///< name of the communicator, cut to 15 characters
  Clock::time_point started{};
  Clock::time_point finished{};  ///< epoch while it runs
  bool running() const noexcept { return finished == Clock::time_point{}; }
};

/// `world: all_gather of 1000 f32, sequence 17`
std::string describe(const FlightEntry& entry);

/// Thread-safe; a start and a finish cost one uncontended lock each.
class FlightRing {
 public:
  explicit FlightRing(std::size_t capacity = 4096);

  std::int64_t start(const Call& call, std::string_view group, std::int64_t sequence);
  void finish(std::int64_t id) noexcept;

  /// The unfinished collective that was started first.
  std::optional<FlightEntry> oldest_running() const;
  /// The collective that finished last.
  std::optional<FlightEntry> last_finished() const;
  /// The last `capacity` entries, oldest first.
  std::vector<FlightEntry> entries() const;
  /// The last `most` entries, a line each: id, group, sequence, operation, count, type, start before now and duration
  /// in ms, or "running".
  void dump(std::ostream& out, std::size_t most = SIZE_MAX) const;

 private:
  mutable std::mutex mutex_;
  std::vector<FlightEntry> ring_;
  std::map<std::int64_t, FlightEntry> running_;
  std::optional<FlightEntry> last_finished_;
  std::int64_t next_id_ = 0;
};

/// What a transport holds of a collective it has started; finish() may be called from any thread, more than once.
class Ticket {
 public:
  Ticket() = default;
  Ticket(std::shared_ptr<FlightRing> ring, std::int64_t id, std::string what) noexcept
      : ring_(std::move(ring)), id_(id), what_(std::move(what)) {}
  void finish() noexcept {
    if (auto ring = std::move(ring_)) ring->finish(id_);
    ring_ = nullptr;
  }
  const std::string& what() const noexcept { return what_; }  ///< for error texts

 private:
  std::shared_ptr<FlightRing> ring_;
  std::int64_t id_ = -1;
  std::string what_;
};

}  // namespace tessera::comm
