#pragma once
/// TraceLog: spans of time of one rank, for a timeline in Perfetto or chrome://tracing.
/// Format: Chrome trace events ("ph":"X", times in microseconds), one process per rank, one row per kind of work.
/// Source: "Trace Event Format" of the Chromium project.
#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace tessera {

class TraceLog {
 public:
  using Clock = std::chrono::steady_clock;
  enum class Row : std::uint8_t { step, compute, gather, reduce, wait };

  /// Times count from `origin`; ranks agree on it by taking it right after a barrier. At most `max_spans` are kept, the
  /// first ones: a long run must not fill the memory.
  explicit TraceLog(Clock::time_point origin = Clock::now(), std::size_t max_spans = 1'000'000)
      : origin_(origin), max_spans_(max_spans) {}

  void add(Row row, std::string_view name, Clock::time_point start, Clock::time_point end);
  std::size_t size() const noexcept { return spans_.size(); }
  std::size_t dropped() const noexcept { return dropped_; }

  /// The events of this rank, comma separated, without the enclosing array.
  std::string events(int rank) const;
  /// A whole file from the events() of all ranks.
  static std::string document(const std::vector<std::string>& events_of_ranks);

 private:
  struct Span {
    Row row;
    std::string name;
    std::int64_t start_ns, length_ns;
  };
  Clock::time_point origin_;
  std::size_t max_spans_;
  std::size_t dropped_ = 0;
  std::vector<Span> spans_;
};

}  // namespace tessera
