#include "tessera/image/mask.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "image/support.hpp"
#include "tessera/image/rle.hpp"

namespace tessera::image {
namespace {

using testing::HasSubstr;
using testing_support::checksum;
using testing_support::golden;
using testing_support::Json;
using testing_support::refusal;

std::vector<Point> points_of(const Json& json) {
  std::vector<Point> points;
  for (const auto& pair : json) points.push_back({pair[0], pair[1]});
  return points;
}

TEST(Polygon, HasTheSamePixelsAsOpenCv) {
  int cases = 0;
  for (const auto& want : golden("polygons")) {
    SCOPED_TRACE(want.dump());
    Mask mask(want["size"][0], want["size"][1]);
    fill_polygon(mask, points_of(want["points"]), 1);
    EXPECT_EQ(rle_to_string(rle_encode(mask)), want["counts"]);
    ++cases;
  }
  EXPECT_GE(cases, 70);
}

TEST(Polygon, ShapesAreDrawnLargestFirstWithIgnoreAndWithoutFlags) {
  for (const auto& want : golden("shapes")) {
    SCOPED_TRACE(want.dump());
    std::vector<Shape> shapes;
    for (const auto& shape : want["shapes"]) shapes.push_back({shape["label"], points_of(shape["points"])});
    EXPECT_EQ(checksum(draw_shapes(shapes, {want["size"][0], want["size"][1]}).data), want["label"]);
  }
}

TEST(Polygon, SmallShapeWinsWhereItOverlapsALargerOne) {
  const std::vector<Shape> shapes{{"target", {{2, 2}, {4, 2}, {4, 4}, {2, 4}}},
                                  {"ignore", {{0, 0}, {9, 0}, {9, 9}, {0, 9}}}};
  const Mask label = draw_shapes(shapes, {10, 10});
  EXPECT_EQ(label.row(3)[3], 1);
  EXPECT_EQ(label.row(0)[0], 255);
}

TEST(Polygon, FarCornersCostNothing) {
  Mask mask(4, 4);
  const double far = 2147483647.0;
  fill_polygon(mask, std::vector<Point>{{-far, -far}, {far, -far}, {far, far}, {-far, far}}, 1);
  EXPECT_EQ(mask.area(), 16);
}

TEST(Polygon, RefusesWhatCannotBeDrawn) {
  Mask mask(4, 4);
  EXPECT_THAT(refusal([&] { fill_polygon(mask, {}, 1); }), HasSubstr("without points"));
  const std::vector<Point> infinite{{0, 0}, {std::numeric_limits<double>::infinity(), 0}};
  EXPECT_THAT(refusal([&] { fill_polygon(mask, infinite, 1); }), HasSubstr("32 bits"));
  const std::vector<Point> big{{0, 0}, {3e9, 0}};
  EXPECT_THAT(refusal([&] { fill_polygon(mask, big, 1); }), HasSubstr("32 bits"));
}

TEST(CheckPolygon, NamesThePlace) {
  const Size size{40, 60};
  const auto reason = [&](std::vector<Point> points) {
    return refusal([&] { check_polygon(points, size, "a.json shape 3"); });
  };
  EXPECT_EQ(reason({{1, 1}, {50, 2}, {70, 90}}), "");
  EXPECT_THAT(reason({{1, 1}, {50, 2}}), HasSubstr("a.json shape 3: a polygon of 2 points"));
  EXPECT_THAT(reason({{1, 1}, {50, 2}, {std::nan(""), 4}}), HasSubstr("point 2"));
  EXPECT_THAT(reason({{100, 100}, {150, 120}, {170, 190}}), HasSubstr("outside the image"));
  EXPECT_THAT(reason({{-9, 1}, {-5, 2}, {-1, 9}}), HasSubstr("x -9 … -1"));
}

}  // namespace
}  // namespace tessera::image
