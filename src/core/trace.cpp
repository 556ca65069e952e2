#include "tessera/core/trace.hpp"

#include <fmt/format.h>

#include <array>
#include <nlohmann/json.hpp>

namespace tessera {

namespace {
constexpr std::array<const char*, 5> kRows{"step", "compute", "gather", "reduce", "wait for communication"};

std::int64_t ns(TraceLog::Clock::duration d) {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(d).count();
}
}  // namespace

void TraceLog::add(Row row, std::string_view name, Clock::time_point start, Clock::time_point end) {
  if (spans_.size() == max_spans_) {
    ++dropped_;
    return;
  }
  spans_.push_back({row, std::string(name), ns(start - origin_), ns(end - start)});
}

std::string TraceLog::events(int rank) const {
  std::string out = fmt::format(R"({{"ph":"M","pid":{0},"name":"process_name","args":{{"name":"rank {0}"}}}})", rank);
  for (std::size_t row = 0; row < kRows.size(); ++row) {
    out += fmt::format(R"(,
{{"ph":"M","pid":{},"tid":{},"name":"thread_name","args":{{"name":"{}"}}}})",
                       rank, row, kRows[row]);
  }
  for (const auto& span : spans_) {
    out += fmt::format(R"(,
{{"ph":"X","pid":{},"tid":{},"ts":{:.3f},"dur":{:.3f},"name":{}}})",
                       rank, static_cast<int>(span.row), static_cast<double>(span.start_ns) / 1e3,
                       static_cast<double>(span.length_ns) / 1e3, nlohmann::json(span.name).dump());
  }
  return out;
}

std::string TraceLog::document(const std::vector<std::string>& events_of_ranks) {
  std::string out = "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n";
  for (std::size_t i = 0; i < events_of_ranks.size(); ++i) out += (i == 0 ? "" : ",\n") + events_of_ranks[i];
  return out + "\n]}\n";
}

}  // namespace tessera
