#include "tessera/core/progress.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>

#include "tessera/core/clock.hpp"

namespace tessera {
namespace {

constexpr int kBarCells = 24;
constexpr double kMemoryS = 20;  ///< how far back the rate looks

double steady_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

void write_stderr(std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stderr);
  std::fflush(stderr);
}

/// Seconds per unit read better than units per second where a unit is slow.
std::string rate_text(double rate, const std::string& unit) {
  if (rate <= 0) return "";
  return rate >= 1 ? fmt::format(", {:.1f} {}/s", rate, unit) : fmt::format(", {:.2f} s/{}", 1 / rate, unit);
}

}  // namespace

ProgressStyle progress_style(int rank, bool quiet) {
  if (rank != 0 || quiet) return ProgressStyle::silent;
  return ::isatty(STDERR_FILENO) == 1 ? ProgressStyle::bar : ProgressStyle::lines;
}

Progress::Progress(std::string title, std::int64_t total, ProgressSettings settings)
    : title_(std::move(title)), total_(total), settings_(std::move(settings)), done_(settings_.start) {
  if (!settings_.write) settings_.write = write_stderr;
  if (!settings_.now) settings_.now = steady_seconds;
  started_ = updated_ = settings_.now();
}

Progress::~Progress() {
  if (on_line_) settings_.write("\n");
}

void Progress::update(std::int64_t done, std::string_view note) {
  const double now = settings_.now();
  if (const double passed = now - updated_; passed > 0 && done > done_) {
    const double latest = static_cast<double>(done - done_) / passed;
    const double weight = rate_ == 0 ? 1 : 1 - std::exp(-passed / kMemoryS);
    rate_ += weight * (latest - rate_);
    updated_ = now;
    done_ = done;
  }
  if (settings_.style == ProgressStyle::silent) return;
  const double interval = settings_.style == ProgressStyle::bar ? settings_.bar_interval_s : settings_.line_interval_s;
  const bool ends = total_ > 0 && done >= total_;
  if (drawn_ >= 0 && now - drawn_ < interval && !ends) return;
  drawn_ = now;
  draw(done, note);
}

std::string Progress::text(std::int64_t done, std::string_view note) const {
  std::string out = title_ + " ";
  if (total_ > 0) {
    const double part = std::clamp(static_cast<double>(done) / static_cast<double>(total_), 0.0, 1.0);
    if (settings_.style == ProgressStyle::bar) {
      const int full = static_cast<int>(part * kBarCells);
      out += "[" + std::string(static_cast<std::size_t>(full), '=') +
             std::string(static_cast<std::size_t>(kBarCells - full), ' ') + "] ";
    }
    out += fmt::format("{:3.0f} % {}/{} {}", std::floor(part * 100), done, total_, settings_.unit);
  } else {
    out += fmt::format("{} {}", done, settings_.unit);
  }
  out += rate_text(rate_, settings_.unit);
  out += ", " + duration_text(settings_.now() - started_) + " passed";
  if (total_ > done && rate_ > 0) out += ", " + duration_text(static_cast<double>(total_ - done) / rate_) + " left";
  if (!note.empty()) out += ", " + std::string(note);
  return out;
}

void Progress::draw(std::int64_t done, std::string_view note) {
  if (settings_.style == ProgressStyle::lines) {
    settings_.write(text(done, note) + "\n");
    return;
  }
  settings_.write("\r" + text(done, note) + "\x1b[K");  // and clear what the last text left behind it
  on_line_ = true;
}

void Progress::clear() {
  if (!on_line_) return;
  settings_.write("\r\x1b[K");
  on_line_ = false;
  drawn_ = -1;
}

}  // namespace tessera
