#pragma once
/// Progress of a long loop: a bar that redraws itself on a terminal, a plain line now and then elsewhere (a batch job's
/// log), nothing on ranks other than 0. A value with an owner; several may exist, one at a time per terminal.
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

namespace tessera {

enum class ProgressStyle { silent, lines, bar };

/// bar where standard error is a terminal, lines where not; silent on ranks other than 0 or when `quiet`.
ProgressStyle progress_style(int rank, bool quiet = false);

struct ProgressSettings {
  ProgressStyle style = ProgressStyle::silent;
  std::int64_t start = 0;       ///< done before this run, as after a resume; not counted in the rate
  std::string unit = "it";      ///< "steps", "samples"
  double line_interval_s = 30;  ///< between plain lines
  double bar_interval_s = 0.1;  ///< between redraws
  /// Where the text goes; standard error when empty.
  std::function<void(std::string_view)> write = {};
  /// Seconds that never run backwards; the steady clock when empty.
  std::function<double()> now = {};
};

class Progress {
 public:
  /// `total` of 0 or less: unknown; then no bar and no time left are shown.
  Progress(std::string title, std::int64_t total, ProgressSettings settings);
  /// Ends the bar's line, so that what is printed next stands on its own.
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// `done`: absolute. `note`: such as "loss 1.234". Draws only when it is time, or at the end.
  void update(std::int64_t done, std::string_view note = {});
  /// Takes the bar away, so that a line of a log may be written; the next update draws it again.
  void clear();
  /// Units a second lately, 0 before the second update.
  double rate() const noexcept { return rate_; }

 private:
  std::string text(std::int64_t done, std::string_view note) const;
  void draw(std::int64_t done, std::string_view note);
  std::string title_;
  std::int64_t total_;
  ProgressSettings settings_;
  double started_ = 0;
  double drawn_ = -1;  ///< when last; negative: never
  double updated_ = 0;
  std::int64_t done_ = 0;
  double rate_ = 0;
  bool on_line_ = false;  ///< the terminal's line holds the bar
};

}  // namespace tessera
