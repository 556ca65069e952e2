#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <numeric>

#include "tessera/core/error.hpp"
#include "tessera/image/mask.hpp"

namespace tessera::image {
namespace {

using Int = std::int64_t;
constexpr int kShift = 16;  // fractional bits of an edge's x

struct Pixel {
  Int x, y;
};

/// Which sides of the image a point lies beyond.
enum Side : unsigned { kLeft = 1, kRight = 2, kAbove = 4, kBelow = 8 };

unsigned beyond(Pixel p, Size size) {
  return (p.x < 0 ? kLeft : 0U) | (p.x > size.width - 1 ? kRight : 0U) | (p.y < 0 ? kAbove : 0U) |
         (p.y > size.height - 1 ? kBelow : 0U);
}

/// Cuts a segment to the image by Cohen and Sutherland, rounding each cut towards its end as OpenCV does. Returns
/// whether something is left; the points are moved even where nothing is, and the fill depends on that.
bool clip(Size size, Pixel& a, Pixel& b) {
  if (size.height <= 0 || size.width <= 0) return false;
  unsigned side_a = beyond(a, size), side_b = beyond(b, size);
  if ((side_a & side_b) != 0 || (side_a | side_b) == 0) return (side_a | side_b) == 0;
  const auto cut = [](Int along, Int d_other, Int d_along) {
    return static_cast<Int>(static_cast<double>(along) * static_cast<double>(d_other) / static_cast<double>(d_along));
  };
  const auto to_row = [&](Pixel& p, unsigned side) {
    const Int y = side & kAbove ? 0 : size.height - 1;
    p.x += cut(y - p.y, b.x - a.x, b.y - a.y);
    p.y = y;
    return beyond(p, size) & (kLeft | kRight);
  };
  if (side_a & (kAbove | kBelow)) side_a = to_row(a, side_a);
  if (side_b & (kAbove | kBelow)) side_b = to_row(b, side_b);
  if ((side_a & side_b) != 0 || (side_a | side_b) == 0) return (side_a | side_b) == 0;
  const auto to_column = [&](Pixel& p, unsigned side) {
    const Int x = side == kLeft ? 0 : size.width - 1;
    p.y += cut(x - p.x, b.y - a.y, b.x - a.x);
    p.x = x;
  };
  if (side_a) to_column(a, side_a);
  if (side_b) to_column(b, side_b);
  return true;
}

/// Bresenham's line, always drawn from its left end so that a segment has the same pixels in both directions.
void draw_line(Mask& mask, Pixel a, Pixel b, std::uint8_t value) {
  if ((beyond(a, mask.size()) | beyond(b, mask.size())) != 0 && !clip(mask.size(), a, b)) return;
  if (b.x < a.x) std::swap(a, b);
  const Int across = b.x - a.x, down = std::abs(b.y - a.y), step_y = b.y < a.y ? -1 : 1;
  const bool steep = down > across;
  const Int length = steep ? down : across, minor = steep ? across : down;
  Int error = length - 2 * minor;
  for (Int i = 0; i <= length; ++i) {
    mask.row(a.y)[a.x] = value;
    const bool turn = error < 0;
    error += turn ? 2 * length - 2 * minor : -2 * minor;
    if (steep || turn) a.y += step_y;
    if (!steep || turn) a.x += 1;
  }
}

/// A slanted side of the polygon, on rows top … bottom-1; x is in 16.16 at row top.
struct Edge {
  Int top, bottom, x, slope;
};

/// The edge from a to b, its line already cut to what is visible so that far corners do not cost precision.
Edge make_edge(Pixel a, Pixel b, Size size) {
  Pixel from{(a.x << kShift) + (Int{1} << (kShift - 1)), a.y}, to{(b.x << kShift) + (Int{1} << (kShift - 1)), b.y};
  if ((beyond(a, size) | beyond(b, size)) != 0) {
    Pixel cut_a = a, cut_b = b;
    clip(size, cut_a, cut_b);
    if (cut_a.y != cut_b.y) {
      from = {cut_a.x << kShift, cut_a.y};
      to = {cut_b.x << kShift, cut_b.y};
    } else {
      from.x = a.x << kShift;
      to.x = b.x << kShift;
    }
  }
  Edge edge;
  edge.slope = (to.x - from.x) / (to.y - from.y);
  edge.top = std::min(a.y, b.y);
  edge.bottom = std::max(a.y, b.y);
  edge.x = a.y < b.y ? from.x + (a.y - from.y) * edge.slope : to.x + (b.y - to.y) * edge.slope;
  return edge;
}

void fill_edges(Mask& mask, std::vector<Edge>& edges, std::uint8_t value) {
  if (edges.size() < 2) return;
  std::sort(edges.begin(), edges.end(), [](const Edge& a, const Edge& b) { return a.top < b.top; });
  std::vector<const Edge*> active;
  std::vector<Int> crossings;
  auto next = edges.begin();
  for (Int y = std::max<Int>(edges.front().top, 0); y < mask.height; ++y) {
    for (; next != edges.end() && next->top <= y; ++next) active.push_back(&*next);
    std::erase_if(active, [y](const Edge* edge) { return edge->bottom <= y; });
    if (active.empty() && next == edges.end()) break;
    crossings.clear();
    for (const Edge* edge : active) crossings.push_back(edge->x + (y - edge->top) * edge->slope);
    std::sort(crossings.begin(), crossings.end());
    for (std::size_t i = 0; i + 1 < crossings.size(); i += 2) {
      const Int left = std::max<Int>(crossings[i] >> kShift, 0),
                right = std::min(crossings[i + 1] >> kShift, mask.width - 1);
      if (left <= right) std::fill(mask.row(y) + left, mask.row(y) + right + 1, value);
    }
  }
}

std::string lower(std::string_view text) {
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return out;
}

bool fits(double v) {
  return v > -2147483649.0 && v < 2147483648.0;
}  // false for NaN

}  // namespace

std::int64_t Mask::area() const noexcept {
  return std::count_if(data.begin(), data.end(), [](std::uint8_t v) { return v != 0; });
}

void check_polygon(std::span<const Point> points, Size size, std::string_view label) {
  if (points.size() < 3) throw RequestError("{}: a polygon of {} points, three are the least", label, points.size());
  constexpr double kFar = std::numeric_limits<double>::infinity();
  double left = kFar, right = -kFar, top = kFar, bottom = -kFar;
  for (std::size_t i = 0; i < points.size(); ++i) {
    const auto [x, y] = points[i];
    if (!fits(x) || !fits(y)) throw RequestError("{}: point {} of the polygon is ({}, {})", label, i, x, y);
    left = std::min(left, x), right = std::max(right, x), top = std::min(top, y), bottom = std::max(bottom, y);
  }
  if (right < 0 || bottom < 0 || left >= static_cast<double>(size.width) || top >= static_cast<double>(size.height)) {
    throw RequestError("{}: the polygon lies outside the image: x {:g} … {:g}, y {:g} … {:g}, image {} x {}", label,
                       left, right, top, bottom, size.width, size.height);
  }
}

void fill_polygon(Mask& mask, std::span<const Point> points, std::uint8_t value) {
  if (points.empty()) throw RequestError("a polygon without points cannot be drawn");
  std::vector<Pixel> corners;
  corners.reserve(points.size());
  for (const auto [x, y] : points) {
    if (!fits(x) || !fits(y)) throw RequestError("polygon point ({}, {}) does not fit 32 bits", x, y);
    corners.push_back({static_cast<Int>(x), static_cast<Int>(y)});
  }
  std::vector<Edge> edges;
  edges.reserve(corners.size());
  Pixel before = corners.back();
  for (const Pixel corner : corners) {
    draw_line(mask, before, corner, value);
    if (before.y != corner.y) edges.push_back(make_edge(before, corner, mask.size()));
    before = corner;
  }
  fill_edges(mask, edges, value);
}

Mask draw_shapes(std::span<const Shape> shapes, Size size) {
  std::vector<const Shape*> drawn;
  std::vector<std::int64_t> areas;
  for (const Shape& shape : shapes) {
    if (lower(shape.label) == "flag") continue;
    Mask alone(size.height, size.width);
    fill_polygon(alone, shape.points, 1);
    drawn.push_back(&shape);
    areas.push_back(alone.area());
  }
  std::vector<std::size_t> order(drawn.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return areas[a] < areas[b]; });
  Mask mask(size.height, size.width);
  for (auto it = order.rbegin(); it != order.rend(); ++it) {
    fill_polygon(mask, drawn[*it]->points, lower(drawn[*it]->label).find("ignore") != std::string::npos ? 255 : 1);
  }
  return mask;
}

}  // namespace tessera::image
