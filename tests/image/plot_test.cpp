#include "tessera/image/plot.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "image/support.hpp"

namespace tessera::image {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing_support::refusal;

constexpr std::uint8_t kFirstColour[] = {0, 114, 178};

/// Pixels of the first series' colour below the legend, as (row, column).
std::vector<std::pair<std::int64_t, std::int64_t>> curve(const Image& image) {
  std::vector<std::pair<std::int64_t, std::int64_t>> found;
  for (std::int64_t y = 64; y < image.height; ++y) {
    for (std::int64_t x = 0; x < image.width; ++x) {
      if (std::equal(kFirstColour, kFirstColour + 3, image.row(y) + 3 * x)) found.emplace_back(y, x);
    }
  }
  return found;
}

TEST(Plot, AFallingSeriesFallsFromLeftToRight) {
  PlotSeries loss{"loss", {}, {}};
  for (int i = 0; i < 50; ++i) loss.x.push_back(i), loss.y.push_back(50 - i);
  const Image image = draw_plot({&loss, 1}, {"", "step", "loss", 400, 300});
  EXPECT_EQ(image.size(), (Size{300, 400}));
  const auto pixels = curve(image);
  ASSERT_GT(pixels.size(), 100U);
  std::int64_t left = 400, right = 0, at_left = 0, at_right = 0;
  for (const auto& [y, x] : pixels) {
    if (x < left) left = x, at_left = y;
    if (x > right) right = x, at_right = y;
  }
  EXPECT_GT(right - left, 250);
  EXPECT_GT(at_right - at_left, 130);
}

TEST(Plot, DenseSeriesFillTheWholeWidth) {
  PlotSeries dense{"dense", {}, {}};
  for (int i = 0; i < 5000; ++i) dense.x.push_back(i), dense.y.push_back(i % 2 == 0 ? 1.0 : 3.0);
  const auto pixels = curve(draw_plot({&dense, 1}, {"", "", "", 400, 300}));
  ASSERT_FALSE(pixels.empty());
  std::int64_t top = 300, bottom = 0;
  for (const auto& [y, x] : pixels) top = std::min(top, y), bottom = std::max(bottom, y);
  EXPECT_LT(bottom - top, 60);  // the mean, not the zigzag
}

TEST(Plot, GapsAndEmptySeriesAreDrawn) {
  const double nan = std::nan(""), infinite = std::numeric_limits<double>::infinity();
  const std::vector<PlotSeries> gaps{
      {"a", {0, 1, 2, 3, 4}, {1, nan, 2, infinite, 3}}, {"none", {}, {}}, {"nan", {1}, {nan}}};
  EXPECT_GT(curve(draw_plot(gaps, {"t", "", "", 400, 300})).size(), 10U);
  const PlotSeries nothing{"nothing", {nan}, {nan}};
  const Image without = draw_plot({&nothing, 1}, {"t", "", "", 400, 300});
  EXPECT_TRUE(curve(without).empty());
  const PlotSeries flat{"flat", {7}, {2}};
  EXPECT_FALSE(curve(draw_plot({&flat, 1}, {"t", "", "", 400, 300})).empty());
  const PlotSeries wild{"wild", {-1e300, 1e300}, {-1e308, 1e308}};
  EXPECT_NO_THROW(draw_plot({&wild, 1}, {"t", "", "", 400, 300}));
}

TEST(Plot, RefusesUnequalLengthsAndSizes) {
  const PlotSeries uneven{"uneven", {1, 2}, {1}};
  EXPECT_THAT(refusal([&] { draw_plot({&uneven, 1}, {}); }), HasSubstr("'uneven' has 2 x and 1 y"));
  EXPECT_THAT(refusal([] { draw_plot({}, {"", "", "", 20, 20}); }), HasSubstr("20 x 20"));
}

TEST(RoundTicks, AreRoundAndInside) {
  EXPECT_THAT(round_ticks(0, 10, 5), ElementsAre(0, 2, 4, 6, 8, 10));
  EXPECT_THAT(round_ticks(-0.1, 1.05, 3), ElementsAre(0, 0.5, 1));
  EXPECT_THAT(round_ticks(3, 3, 5), ElementsAre());
  for (const double v : round_ticks(-7e-5, 3.1e-4, 6)) EXPECT_TRUE(v >= -7e-5 && v <= 3.1e-4) << v;
}

}  // namespace
}  // namespace tessera::image
