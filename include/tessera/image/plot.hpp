#pragma once
/// Line plots, such as loss curves: axes with numbers and labels, legend, a few series.
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "tessera/image/image.hpp"

namespace tessera::image {

struct PlotSeries {
  std::string name;
  std::vector<double> x, y;  ///< same length; a point that is not finite leaves a gap
};

struct PlotOptions {
  std::string title;
  std::string x_label;
  std::string y_label;
  std::int64_t width = 960;   ///< pixels
  std::int64_t height = 540;  ///< pixels
};

/// Series with many more points than pixels are drawn as the mean of each pixel column over a pale band from its
/// smallest to its largest value. Up to eight colours, then they repeat. Without any finite point the axes say "no
/// data". Throws RequestError when x and y differ in length or the picture is smaller than 200 x 150 or larger than
/// 8192.
Image draw_plot(std::span<const PlotSeries> series, const PlotOptions& options);

/// About `most` round numbers (1, 2 or 5 times a power of ten) that lie in [low, high].
std::vector<double> round_ticks(double low, double high, int most);

}  // namespace tessera::image
