#include "tessera/image/rle.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "image/support.hpp"

namespace tessera::image {
namespace {

using testing::HasSubstr;
using testing_support::golden;
using testing_support::noise;
using testing_support::refusal;

TEST(RleMask, EqualsPycocotoolsForPolygonsAndPixels) {
  int polygons = 0, masks = 0;
  for (const auto& want : golden("rle")) {
    SCOPED_TRACE(want.dump());
    const Size size{want["size"][0], want["size"][1]};
    const Rle rle = rle_from_string(want["counts"].get<std::string>(), size, "rle");
    EXPECT_EQ(rle_to_string(rle), want["counts"]);
    EXPECT_EQ(rle_area(rle), want["area"]);
    const Rectangle box = rle_bounds(rle);
    EXPECT_EQ((std::vector<std::int64_t>{box.x, box.y, box.width, box.height}),
              want["bounds"].get<std::vector<std::int64_t>>());
    const Mask mask = rle_decode(rle);
    EXPECT_EQ(mask.area(), want["area"]);
    EXPECT_EQ(rle_encode(mask), rle);
    if (want.contains("polygons")) {
      EXPECT_EQ(rle_from_polygons(want["polygons"].get<std::vector<std::vector<double>>>(), size, "polygons"), rle);
      ++polygons;
    }
    if (want.contains("seed")) {
      Mask made(size.height, size.width);
      made.data = noise(size.height * size.width, want["seed"]);
      for (auto& value : made.data) value = value > want["above"].get<int>();
      EXPECT_EQ(made, mask);
      ++masks;
    }
  }
  EXPECT_EQ(polygons, 41);
  EXPECT_EQ(masks, 6);
}

TEST(RleMask, UnionAndIntersectionEqualPycocotools) {
  for (const auto& want : golden("rle_merge")) {
    std::vector<Rle> parts;
    for (const auto& part : want["parts"]) parts.push_back(rle_from_string(part.get<std::string>(), {19, 23}, "part"));
    EXPECT_EQ(rle_to_string(rle_merge(parts)), want["union"]);
    EXPECT_EQ(rle_to_string(rle_merge(parts, true)), want["common"]);
  }
}

TEST(RleMask, SummedPlanesAreNotClipped) {
  const Rle one = rle_from_counts(std::vector<std::int64_t>{1, 2, 1}, {2, 2}, "m");
  Mask sum(2, 2);
  rle_add(one, sum);
  rle_add(one, sum);
  EXPECT_EQ(sum.data, (std::vector<std::uint8_t>{0, 2, 2, 0}));
  Mask other(1, 4);
  EXPECT_THAT(refusal([&] { rle_add(one, other); }), HasSubstr("cannot be added"));
}

TEST(RleMask, RejectsCountsThatOverrunTheImage) {
  const auto reason = [](std::vector<std::int64_t> counts) {
    return refusal([&] { rle_from_counts(counts, {3, 4}, "a.json"); });
  };
  EXPECT_EQ(reason({3, 4, 5}), "");
  EXPECT_EQ(reason({0, 12}), "");
  EXPECT_THAT(reason({3, 4, 6}), HasSubstr("a.json: RLE run 2 of 6 pixels overruns"));
  EXPECT_THAT(reason({3, 4}), HasSubstr("describes 7 pixels"));
  EXPECT_THAT(reason({3, -1, 10}), HasSubstr("run 1 of -1"));
  EXPECT_THAT(reason({std::int64_t{1} << 62, 1}), HasSubstr("overruns"));
  EXPECT_THAT(reason({}), HasSubstr("describes 0 pixels"));
}

TEST(RleMask, RejectsStringsThatLie) {
  const auto reason = [](std::string_view counts) {
    return refusal([&] { rle_from_string(counts, {3, 4}, "a.json"); });
  };
  EXPECT_EQ(reason("345"), "");
  EXPECT_THAT(reason("346"), HasSubstr("overruns"));
  EXPECT_THAT(reason("34"), HasSubstr("describes 7"));
  EXPECT_THAT(reason("34P"), HasSubstr("ends within a count (byte 2)"));
  EXPECT_THAT(reason("3 5"), HasSubstr("byte 1 of the RLE string is 0x20"));
  EXPECT_THAT(reason("oooooooooooooooo0"), HasSubstr("beyond 32 bits"));
  EXPECT_THAT(reason("O"), HasSubstr("overruns"));  // -1
  EXPECT_THAT(refusal([] { rle_from_string("0", {1 << 30, 1 << 30}, "huge"); }), HasSubstr("huge"));
}

TEST(RleMask, DecodingChecksHandMadeRuns) {
  EXPECT_THAT(refusal([] { rle_decode({2, 2, {1, 9}}); }), HasSubstr("describes 10 pixels"));
  EXPECT_THAT(refusal([] { rle_merge(std::vector<Rle>{{2, 2, {4}}, {1, 4, {4}}}); }), HasSubstr("cannot be merged"));
  EXPECT_THAT(refusal([] { rle_merge({}); }), HasSubstr("no mask"));
}

TEST(RleMask, RejectsPolygonsWithTooFewOrWildNumbers) {
  const auto reason = [](std::vector<double> xy) { return refusal([&] { rle_from_polygon(xy, {30, 40}, "ann 7"); }); };
  EXPECT_EQ(reason({1, 1, 20, 3, 9, 25}), "");
  EXPECT_THAT(reason({1, 1, 20, 3}), HasSubstr("ann 7: a polygon of 4 numbers"));
  EXPECT_THAT(reason({1, 1, 20, 3, 9, 25, 7}), HasSubstr("7 numbers"));
  EXPECT_THAT(reason({1, 1, 1e12, 3, 9, 25}), HasSubstr("number 2"));
  EXPECT_THAT(reason({1, 1, std::nan(""), 3, 9, 25}), HasSubstr("number 2"));
  EXPECT_THAT(refusal([] { rle_from_polygons({}, {3, 3}, "ann 7"); }), HasSubstr("no polygon"));
}

}  // namespace
}  // namespace tessera::image
