#include "tessera/image/plot.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "canvas.hpp"
#include "tessera/core/error.hpp"

namespace tessera::image {
namespace {

// Okabe and Ito's palette, which colour-blind readers can tell apart; yellow last, black left out.
constexpr Colour kColours[] = {{0, 114, 178},  {213, 94, 0},  {0, 158, 115}, {204, 121, 167},
                               {86, 180, 233}, {230, 159, 0}, {120, 94, 60}, {200, 190, 40}};
constexpr Colour kWhite{255, 255, 255}, kInk{40, 44, 52}, kGrid{228, 230, 234}, kAxis{120, 124, 132};
constexpr double kTitleSize = 13, kTextSize = 9.5;

struct Range {
  double low = std::numeric_limits<double>::infinity(), high = -low;
  void take(double v) { low = std::min(low, v), high = std::max(high, v); }
  bool empty() const { return low > high; }
  /// Never of length 0, and with a little room at both ends.
  Range widened(double share) const {
    if (empty()) return {0, 1};
    if (high > low) return {low - (high - low) * share, high + (high - low) * share};
    const double room = low == 0 ? 1 : std::abs(low) * 0.1;
    return {low - room, high + room};
  }
};

/// The plotting area in pixels, and the numbers it stands for.
struct Frame {
  double left, right, top, bottom;
  Range x, y;
  double at_x(double v) const { return left + (v - x.low) / (x.high - x.low) * (right - left); }
  double at_y(double v) const { return bottom - (v - y.low) / (y.high - y.low) * (bottom - top); }
};

bool finite(const PlotSeries& series, std::size_t i) {
  return std::isfinite(series.x[i]) && std::isfinite(series.y[i]);
}

std::string number(double value, double step) {
  if (std::abs(value) < step * 1e-6) return "0";
  const double size = std::abs(value);
  if (size >= 1e6 || size < 1e-3) return fmt::format("{:.4g}", value);
  const int decimals = std::clamp(static_cast<int>(std::ceil(-std::log10(step) - 1e-9)), 0, 6);
  return fmt::format("{:.{}f}", value, decimals);
}

double step_of(const std::vector<double>& ticks) {
  return ticks.size() > 1 ? ticks[1] - ticks[0] : 1.0;
}

std::string cut_to(std::string text, double size, double room) {
  if (text_width(text, size) <= room) return text;
  while (!text.empty() && text_width(text + "..", size) > room) text.pop_back();
  return text + "..";
}

void draw_axes(Canvas& canvas, const Frame& frame, const std::vector<double>& xs, const std::vector<double>& ys) {
  for (const double v : ys) {
    const double y = std::round(frame.at_y(v));
    canvas.line(frame.left, y, frame.right, y, 1, kGrid);
    const std::string text = number(v, step_of(ys));
    canvas.text(frame.left - 8 - text_width(text, kTextSize), y + kTextSize / 2, text, kTextSize, kInk);
  }
  for (const double v : xs) {
    const double x = std::round(frame.at_x(v));
    canvas.line(x, frame.top, x, frame.bottom, 1, kGrid);
    const std::string text = number(v, step_of(xs));
    canvas.text(x - text_width(text, kTextSize) / 2, frame.bottom + 8 + kTextSize, text, kTextSize, kInk);
  }
  canvas.line(frame.left, frame.bottom, frame.right, frame.bottom, 1.2, kAxis);
  canvas.line(frame.left, frame.top, frame.left, frame.bottom, 1.2, kAxis);
}

void draw_points(Canvas& canvas, const Frame& frame, const PlotSeries& series, Colour colour) {
  bool started = false;
  double last_x = 0, last_y = 0;
  for (std::size_t i = 0; i < series.x.size(); ++i) {
    if (!finite(series, i)) {
      started = false;
      continue;
    }
    const double x = frame.at_x(series.x[i]), y = frame.at_y(series.y[i]);
    const bool alone = !started && (i + 1 == series.x.size() || !finite(series, i + 1));
    if (started) canvas.line(last_x, last_y, x, y, 1.8, colour);
    if (alone) canvas.line(x, y, x, y, 5, colour);
    last_x = x, last_y = y, started = true;
  }
}

/// One mean and one band per pixel column.
void draw_columns(Canvas& canvas, const Frame& frame, const PlotSeries& series, Colour colour) {
  struct Column {
    double sum = 0;
    std::int64_t count = 0;
    Range range;
  };
  std::vector<Column> columns(static_cast<std::size_t>(frame.right - frame.left) + 1);
  for (std::size_t i = 0; i < series.x.size(); ++i) {
    if (!finite(series, i)) continue;
    auto& column = columns[static_cast<std::size_t>(
        std::clamp(frame.at_x(series.x[i]) - frame.left, 0.0, frame.right - frame.left))];
    column.sum += series.y[i], ++column.count, column.range.take(series.y[i]);
  }
  PlotSeries means;
  for (std::size_t i = 0; i < columns.size(); ++i) {
    if (columns[i].count == 0) continue;
    const double x = frame.left + static_cast<double>(i);
    canvas.line(x, frame.at_y(columns[i].range.low), x, frame.at_y(columns[i].range.high), 1, colour, 0.25);
    means.x.push_back(frame.x.low + static_cast<double>(i) / (frame.right - frame.left) * (frame.x.high - frame.x.low));
    means.y.push_back(columns[i].sum / static_cast<double>(columns[i].count));
  }
  draw_points(canvas, frame, means, colour);
}

/// Names in a row from (x, y), on further rows where one is full; returns the base line of the last row.
double draw_legend(Canvas& canvas, std::span<const PlotSeries> series, double left, double right, double y) {
  constexpr double kSwatch = 22, kGap = 18;
  double x = left;
  for (std::size_t i = 0; i < series.size(); ++i) {
    const std::string name = cut_to(series[i].name, kTextSize, right - left - kSwatch - 6);
    const double needed = kSwatch + 6 + text_width(name, kTextSize);
    if (x > left && x + needed > right) x = left, y += kTextSize + 9;
    canvas.line(x, y - kTextSize / 2, x + kSwatch, y - kTextSize / 2, 3, kColours[i % std::size(kColours)]);
    canvas.text(x + kSwatch + 6, y, name, kTextSize, kInk);
    x += needed + kGap;
  }
  return y;
}

void check(std::span<const PlotSeries> series, const PlotOptions& options) {
  if (options.width < 200 || options.height < 150 || options.width > 8192 || options.height > 8192) {
    throw RequestError("plot of {} x {} pixels: between 200 x 150 and 8192 x 8192 are possible", options.width,
                       options.height);
  }
  for (const auto& one : series) {
    if (one.x.size() != one.y.size())
      throw RequestError("plot series '{}' has {} x and {} y values", one.name, one.x.size(), one.y.size());
  }
}

}  // namespace

std::vector<double> round_ticks(double low, double high, int most) {
  std::vector<double> ticks;
  if (!(high > low) || most < 1) return ticks;
  const double rough = (high - low) / most, power = std::pow(10.0, std::floor(std::log10(rough)));
  double step = power * 10;
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (power * factor >= rough * (1 - 1e-9)) {
      step = power * factor;
      break;
    }
  }
  const double first = std::ceil(low / step - 1e-9), last = std::floor(high / step + 1e-9);
  for (double i = first; i <= last && ticks.size() < 1000; ++i) ticks.push_back(i * step);
  return ticks;
}

Image draw_plot(std::span<const PlotSeries> series, const PlotOptions& options) {
  check(series, options);
  Range x, y;
  for (const auto& one : series) {
    for (std::size_t i = 0; i < one.x.size(); ++i) {
      if (finite(one, i)) x.take(one.x[i]), y.take(one.y[i]);
    }
  }
  const auto width = static_cast<double>(options.width), height = static_cast<double>(options.height);
  Canvas canvas(options.height, options.width, kWhite);
  Frame frame{0, width - 28, 16, height - (options.x_label.empty() ? 30 : 50), x.widened(0.01), y.widened(0.05)};
  if (!options.title.empty()) {
    canvas.text(20, frame.top + kTitleSize, cut_to(options.title, kTitleSize, width - 40), kTitleSize, kInk);
    frame.top += kTitleSize + 14;
  }
  if (!series.empty()) frame.top = draw_legend(canvas, series, 20, width - 20, frame.top + kTextSize) + 16;

  const auto ys =
      round_ticks(frame.y.low, frame.y.high, std::max(2, static_cast<int>((frame.bottom - frame.top) / 60)));
  double widest = 0;
  for (const double v : ys) widest = std::max(widest, text_width(number(v, step_of(ys)), kTextSize));
  frame.left = std::round(20 + widest + (options.y_label.empty() ? 0 : kTextSize + 14));
  const auto xs =
      round_ticks(frame.x.low, frame.x.high, std::max(2, static_cast<int>((frame.right - frame.left) / 100)));
  draw_axes(canvas, frame, xs, ys);

  const double middle = (frame.left + frame.right) / 2;
  if (!options.x_label.empty())
    canvas.text(middle - text_width(options.x_label, kTextSize) / 2, height - 12, options.x_label, kTextSize, kInk);
  if (!options.y_label.empty()) {
    canvas.text_upwards(14 + kTextSize, (frame.top + frame.bottom + text_width(options.y_label, kTextSize)) / 2,
                        options.y_label, kTextSize, kInk);
  }
  if (x.empty())
    canvas.text(middle - text_width("no data", kTitleSize) / 2, (frame.top + frame.bottom) / 2, "no data", kTitleSize,
                kAxis);
  for (std::size_t i = 0; i < series.size(); ++i) {
    const bool dense = static_cast<double>(series[i].x.size()) > 2 * (frame.right - frame.left);
    (dense ? draw_columns : draw_points)(canvas, frame, series[i], kColours[i % std::size(kColours)]);
  }
  return canvas.take();
}

}  // namespace tessera::image
