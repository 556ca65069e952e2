#pragma once
/// Log: lines for people. Rank 0 reports progress; other ranks speak only in warnings, tagged with their rank.
/// A value handed down to whoever must speak; there is no global logger. Copies share one sink.
#include <fmt/format.h>

#include <memory>
#include <string_view>

namespace spdlog {
class logger;
}

namespace tessera {

enum class Level { debug, info, warn, error };

class Log {
 public:
  /// A log that says nothing.
  Log() = default;
  /// Writes to stderr; `quiet` drops info lines on every rank. Level::debug lines need `verbose`.
  Log(int rank, int size, bool verbose = false, bool quiet = false);

  template <class... Args>
  void info(fmt::format_string<Args...> text, Args&&... args) const {
    write(Level::info, fmt::format(text, std::forward<Args>(args)...));
  }
  template <class... Args>
  void warn(fmt::format_string<Args...> text, Args&&... args) const {
    write(Level::warn, fmt::format(text, std::forward<Args>(args)...));
  }
  template <class... Args>
  void debug(fmt::format_string<Args...> text, Args&&... args) const {
    write(Level::debug, fmt::format(text, std::forward<Args>(args)...));
  }
  void write(Level level, std::string_view text) const;

 private:
  std::shared_ptr<spdlog::logger> sink_;
  int rank_ = 0;
};

}  // namespace tessera
