#include "tessera/image/rle.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <utility>

#include "tessera/core/error.hpp"

namespace tessera::image {
namespace {

constexpr std::int64_t kMaxCount = std::numeric_limits<std::uint32_t>::max();

std::int64_t pixels_of(Size size, std::string_view label) {
  if (size.height < 0 || size.width < 0 || (size.width > 0 && size.height > kMaxCount / size.width)) {
    throw RequestError("{}: RLE of an image of {} x {} pixels (width x height)", label, size.width, size.height);
  }
  return size.height * size.width;
}

/// Gives out runs so that the sum never passes the number of pixels.
class Counts {
 public:
  Counts(Size size, std::string_view label)
      : rle_{size.height, size.width, {}}, pixels_(pixels_of(size, label)), label_(label) {}

  void add(std::int64_t count) {
    if (count < 0 || count > pixels_ - sum_) {
      throw RequestError("{}: RLE run {} of {} pixels overruns the image of {} x {} pixels ({} left)", label_,
                         rle_.counts.size(), count, rle_.width, rle_.height, pixels_ - sum_);
    }
    sum_ += count;
    rle_.counts.push_back(static_cast<std::uint32_t>(count));
  }
  Rle take() {
    if (sum_ != pixels_) {
      throw RequestError("{}: RLE describes {} pixels, the image of {} x {} has {}", label_, sum_, rle_.width,
                         rle_.height, pixels_);
    }
    return std::move(rle_);
  }
  std::span<const std::uint32_t> so_far() const { return rle_.counts; }

 private:
  Rle rle_;
  std::int64_t pixels_, sum_ = 0;
  std::string_view label_;
};

/// Calls visit(x, y0, y1) for each stretch of a column inside the mask.
template <class Visit>
void each_column_run(const Rle& rle, Visit visit) {
  std::int64_t at = 0;
  bool inside = false;
  for (const std::uint32_t count : rle.counts) {
    std::int64_t from = at;
    at += count;
    while (inside && from < at) {
      const std::int64_t x = from / rle.height, y = from % rle.height, run = std::min(rle.height - y, at - from);
      visit(x, y, y + run);
      from += run;
    }
    inside = !inside;
  }
}

void check_whole(const Rle& rle) {
  const std::int64_t sum = std::accumulate(rle.counts.begin(), rle.counts.end(), std::int64_t{0});
  if (sum != pixels_of(rle.size(), "mask")) {
    throw RequestError("RLE describes {} pixels, the image of {} x {} has {}", sum, rle.width, rle.height,
                       rle.height * rle.width);
  }
}

constexpr double kFiner = 5;

/// Calls visit(x, y) for the points of the boundary on a grid five times as fine, in drawing order. They are not kept:
/// a few numbers in a file can stand for millions of them.
template <class Visit>
void trace(std::span<const double> xy, Visit visit) {
  const std::size_t corners = xy.size() / 2;
  const auto fine = [&](std::size_t i) { return static_cast<std::int64_t>(kFiner * xy[i % (2 * corners)] + .5); };
  for (std::size_t i = 0; i < corners; ++i) {
    std::int64_t xs = fine(2 * i), ys = fine(2 * i + 1), xe = fine(2 * i + 2), ye = fine(2 * i + 3);
    const std::int64_t dx = std::abs(xe - xs), dy = std::abs(ye - ys);
    const bool flat = dx >= dy, flip = flat ? xs > xe : ys > ye;
    if (flip) std::swap(xs, xe), std::swap(ys, ye);
    const std::int64_t length = flat ? dx : dy;
    const double slope =
        length == 0 ? 0.0 : static_cast<double>(flat ? ye - ys : xe - xs) / static_cast<double>(length);
    for (std::int64_t d = 0; d <= length; ++d) {
      const std::int64_t t = flip ? length - d : d;
      const auto other =
          static_cast<std::int64_t>(static_cast<double>(flat ? ys : xs) + slope * static_cast<double>(t) + .5);
      flat ? visit(t + xs, other) : visit(other, t + ys);
    }
  }
}

/// Column-major places where the boundary passes from one pixel column's centre line to the other side; at most one a
/// column and edge.
std::vector<std::int64_t> crossings(std::span<const double> xy, Size size) {
  std::vector<std::int64_t> places;
  std::int64_t last_x = 0, last_y = 0;
  bool first = true;
  trace(xy, [&](std::int64_t x, std::int64_t y) {
    const std::int64_t from_x = std::exchange(last_x, x), from_y = std::exchange(last_y, y);
    if (std::exchange(first, false) || x == from_x) return;
    const double column = (static_cast<double>(x < from_x ? x : x - 1) + .5) / kFiner - .5;
    if (std::floor(column) != column || column < 0 || column > static_cast<double>(size.width - 1)) return;
    const double row = (static_cast<double>(std::min(y, from_y)) + .5) / kFiner - .5;
    const double clamped = std::ceil(std::clamp(row, 0.0, static_cast<double>(size.height)));
    places.push_back(static_cast<std::int64_t>(column) * size.height + static_cast<std::int64_t>(clamped));
  });
  return places;
}

}  // namespace

Rle rle_encode(const Mask& mask) {
  pixels_of(mask.size(), "mask");
  // Columns are turned into rows some at a time, so that both sides stay in the cache and runs are found by memchr.
  constexpr std::int64_t kColumns = 64;
  Rle rle{mask.height, mask.width, {}};
  std::vector<std::uint8_t> turned(static_cast<std::size_t>(std::min(kColumns, mask.width) * mask.height));
  bool inside = false;
  std::size_t run = 0;
  for (std::int64_t left = 0; left < mask.width; left += kColumns) {
    const std::int64_t columns = std::min(kColumns, mask.width - left);
    for (std::int64_t y = 0; y < mask.height; ++y) {
      const std::uint8_t* row = mask.row(y) + left;
      for (std::int64_t x = 0; x < columns; ++x) turned[static_cast<std::size_t>(x * mask.height + y)] = row[x] != 0;
    }
    const std::uint8_t *at = turned.data(), *end = at + columns * mask.height;
    while (at < end) {
      const auto* change =
          static_cast<const std::uint8_t*>(std::memchr(at, !inside, static_cast<std::size_t>(end - at)));
      run += static_cast<std::size_t>((change ? change : end) - at);
      if (!change) break;
      rle.counts.push_back(static_cast<std::uint32_t>(run));
      run = 0, inside = !inside, at = change;
    }
  }
  rle.counts.push_back(static_cast<std::uint32_t>(run));
  return rle;
}

Mask rle_decode(const Rle& rle) {
  check_whole(rle);
  Mask mask(rle.height, rle.width);
  each_column_run(rle, [&](std::int64_t x, std::int64_t y0, std::int64_t y1) {
    for (std::int64_t y = y0; y < y1; ++y) mask.row(y)[x] = 1;
  });
  return mask;
}

void rle_add(const Rle& rle, Mask& sum) {
  check_whole(rle);
  if (rle.size() != sum.size()) {
    throw RequestError("RLE of {} x {} pixels cannot be added to a mask of {} x {}", rle.width, rle.height, sum.width,
                       sum.height);
  }
  each_column_run(rle, [&](std::int64_t x, std::int64_t y0, std::int64_t y1) {
    for (std::int64_t y = y0; y < y1; ++y) ++sum.row(y)[x];
  });
}

std::string rle_to_string(const Rle& rle) {
  std::string text;
  for (std::size_t i = 0; i < rle.counts.size(); ++i) {
    std::int64_t x = rle.counts[i];
    if (i > 2) x -= rle.counts[i - 2];
    for (bool more = true; more;) {
      const std::int64_t five = x & 31;
      x >>= 5;
      more = five & 16 ? x != -1 : x != 0;  // the top bit of the last five is the sign
      text += static_cast<char>((more ? five | 32 : five) + '0');
    }
  }
  return text;
}

Rle rle_from_string(std::string_view text, Size size, std::string_view label) {
  Counts counts(size, label);
  std::size_t at = 0;
  while (at < text.size()) {
    const std::size_t start = at;
    std::int64_t x = 0;
    int shift = 0;
    for (bool more = true; more; shift += 5) {
      if (at == text.size()) throw RequestError("{}: the RLE string ends within a count (byte {})", label, start);
      const int c = static_cast<unsigned char>(text[at++]) - '0';
      if (c < 0 || c > 63) throw RequestError("{}: byte {} of the RLE string is 0x{:02x}", label, at - 1, c + '0');
      if (shift > 35) throw RequestError("{}: the RLE count at byte {} is beyond 32 bits", label, start);
      x |= static_cast<std::int64_t>(c & 31) << shift;
      more = c & 32;
      if (!more && (c & 16)) x -= std::int64_t{1} << (shift + 5);
    }
    const auto before = counts.so_far();
    if (before.size() > 2) x += before[before.size() - 2];
    counts.add(x);
  }
  return counts.take();
}

Rle rle_from_counts(std::span<const std::int64_t> values, Size size, std::string_view label) {
  Counts counts(size, label);
  for (const std::int64_t value : values) counts.add(value);
  return counts.take();
}

Rle rle_from_polygon(std::span<const double> xy, Size size, std::string_view label) {
  if (xy.size() < 6 || xy.size() % 2 != 0)
    throw RequestError("{}: a polygon of {} numbers; x and y of three points are the least", label, xy.size());
  // Four times the largest image side: such corners exist nowhere, and the boundary is walked in steps of a fifth
  // pixel.
  const double bound = 4.0 * static_cast<double>(std::max<std::int64_t>({size.height, size.width, 1 << 14}));
  for (std::size_t i = 0; i < xy.size(); ++i) {
    if (!(std::abs(xy[i]) <= bound))
      throw RequestError("{}: number {} of the polygon is {:g}, the image has {} x {} pixels", label, i, xy[i],
                         size.width, size.height);
  }
  const std::int64_t pixels = pixels_of(size, label);
  std::vector<std::int64_t> places = crossings(xy, size);
  places.push_back(pixels);
  std::sort(places.begin(), places.end());
  // Two crossings at one place cancel: their empty run joins its neighbours.
  Rle rle{size.height, size.width, {}};
  std::int64_t at = 0;
  bool join = false;
  for (std::size_t i = 0; i < places.size(); ++i) {
    const std::int64_t run = places[i] - at;
    at = places[i];
    if (join) {
      rle.counts.back() += static_cast<std::uint32_t>(run);
      join = false;
    } else if (run > 0 || i == 0) {
      rle.counts.push_back(static_cast<std::uint32_t>(run));
    } else {
      join = true;
    }
  }
  return rle;
}

Rle rle_from_polygons(std::span<const std::vector<double>> polygons, Size size, std::string_view label) {
  std::vector<Rle> parts;
  parts.reserve(polygons.size());
  for (const auto& polygon : polygons) parts.push_back(rle_from_polygon(polygon, size, label));
  if (parts.empty()) throw RequestError("{}: no polygon", label);
  return rle_merge(parts);
}

Rle rle_merge(std::span<const Rle> parts, bool intersect) {
  if (parts.empty()) throw RequestError("no mask to merge");
  Rle merged = parts.front();
  check_whole(merged);
  for (const Rle& part : parts.subspan(1)) {
    check_whole(part);
    if (part.size() != merged.size()) {
      throw RequestError("masks of {} x {} and {} x {} pixels cannot be merged", merged.width, merged.height,
                         part.width, part.height);
    }
    Rle out{part.height, part.width, {}};
    std::size_t a = 0, b = 0;
    std::int64_t left_a = 0, left_b = 0, run = 0;
    bool in_a = true, in_b = true, inside = false;  // both flip as their first run is taken
    for (std::int64_t todo = part.height * part.width; todo > 0;) {
      while (left_a == 0) left_a = merged.counts[a++], in_a = !in_a;
      while (left_b == 0) left_b = part.counts[b++], in_b = !in_b;
      const bool now = intersect ? in_a && in_b : in_a || in_b;
      if (now != inside) out.counts.push_back(static_cast<std::uint32_t>(run)), run = 0, inside = now;
      const std::int64_t step = std::min(left_a, left_b);
      run += step, left_a -= step, left_b -= step, todo -= step;
    }
    out.counts.push_back(static_cast<std::uint32_t>(run));
    merged = std::move(out);
  }
  return merged;
}

std::int64_t rle_area(const Rle& rle) {
  std::int64_t area = 0;
  for (std::size_t i = 1; i < rle.counts.size(); i += 2) area += rle.counts[i];
  return area;
}

Rectangle rle_bounds(const Rle& rle) {
  check_whole(rle);
  std::int64_t left = rle.width, right = -1, top = rle.height, bottom = -1;
  each_column_run(rle, [&](std::int64_t x, std::int64_t y0, std::int64_t y1) {
    left = std::min(left, x), right = std::max(right, x), top = std::min(top, y0), bottom = std::max(bottom, y1 - 1);
  });
  return right < 0 ? Rectangle{} : Rectangle{left, top, right - left + 1, bottom - top + 1};
}

}  // namespace tessera::image
