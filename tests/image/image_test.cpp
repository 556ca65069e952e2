#include "tessera/image/image.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "image/support.hpp"

namespace tessera::image {
namespace {

using testing::HasSubstr;
using testing::StartsWith;
using testing_support::checksum;
using testing_support::golden;
using testing_support::image_file;
using testing_support::refusal;

/// Files that Pillow reads and we do not: a wrong checksum, a missing end or palette, another format.
const std::set<std::string> kStricter{"made_bad_checksum.png", "made_bad_without_end.png", "made_bad_gif.jpg",
                                      "made_bad_no_palette.png"};

TEST(Image, GivesPillowsPixelsForEveryFormat) {
  int read = 0;
  for (const auto& want : golden("decode")) {
    const std::string name = want["file"];
    if (want.contains("refused") || kStricter.contains(name)) continue;
    SCOPED_TRACE(name);
    const std::string file = image_file(name);
    const Image image = decode(bytes_of(file), name);
    EXPECT_EQ(image.height, want["height"]);
    EXPECT_EQ(image.width, want["width"]);
    EXPECT_EQ(checksum(image.rgb), want["rgb"]);
    EXPECT_EQ(check_sound(bytes_of(file), name).size, image.size());
    ++read;
  }
  EXPECT_GE(read, 70);
}

TEST(Image, RefusesEveryDamagedFileByNameAndReason) {
  int refused = 0;
  for (const auto& want : golden("decode")) {
    const std::string name = want["file"];
    if (!want.contains("refused") && !kStricter.contains(name)) continue;
    const std::string file = image_file(name);
    const std::string reason = refusal([&] { decode(bytes_of(file), name); });
    EXPECT_THAT(reason, StartsWith(name + ": "));
    EXPECT_GT(reason.size(), name.size() + 15) << reason;
    EXPECT_EQ(refusal([&] { check_sound(bytes_of(file), name); }), reason);
    ++refused;
  }
  EXPECT_GE(refused, 18);
}

TEST(Image, SaysWhatIsWrong) {
  const auto reason = [](const std::string& name) {
    const std::string file = image_file(name);
    return refusal([&] { decode(bytes_of(file), name); });
  };
  EXPECT_THAT(reason("made_bad_cut.jpg"), HasSubstr("the JPEG is truncated"));
  EXPECT_THAT(reason("made_bad_without_end.jpg"), HasSubstr("the JPEG is truncated"));
  EXPECT_THAT(reason("made_bad_cut.webp"), HasSubstr("the WebP is truncated"));
  EXPECT_THAT(reason("made_bad_last_byte.webp"), HasSubstr("the WebP is truncated"));
  EXPECT_THAT(reason("made_bad_without_end.png"), HasSubstr("the PNG is truncated"));
  EXPECT_THAT(reason("made_bad_checksum.png"), HasSubstr("CRC"));
  EXPECT_THAT(reason("made_bad_huge.png"), HasSubstr("60000 x 60000"));
  EXPECT_THAT(reason("made_bad_huge.jpg"), HasSubstr("60000 x 60000"));
  EXPECT_THAT(reason("made_bad_gif.jpg"), HasSubstr("GIF"));
  EXPECT_THAT(reason("made_bad_empty.jpg"), HasSubstr("empty"));
  EXPECT_THAT(reason("made_bad_text.png"), HasSubstr("6e 6f 74"));
}

TEST(Image, RefusesMorePixelsThanTheFileCanHoldBeforeTakingMemory) {
  std::string jpeg = image_file("made_progressive_444.jpg");
  const std::size_t frame = jpeg.find("\xff\xc2");
  ASSERT_NE(frame, std::string::npos);
  jpeg.replace(frame + 5, 4, "\x32\x00\x32\x00", 4);  // 12800 x 12800
  EXPECT_THAT(refusal([&] { decode(bytes_of(jpeg), "j"); }), HasSubstr("cannot hold 12800 x 12800"));
  std::string png = image_file("basn2c08.png");
  png.replace(16, 8, std::string("\0\0\x32\0\0\0\x32\0", 8));
  const auto sum = static_cast<std::uint32_t>(crc32(0, reinterpret_cast<const Bytef*>(png.data() + 12), 17));
  for (std::size_t i = 0; i < 4; ++i) png[29 + i] = static_cast<char>(sum >> (24 - 8 * i));
  EXPECT_THAT(refusal([&] { decode(bytes_of(png), "p"); }), HasSubstr("cannot hold 12800 x 12800"));
}

TEST(Image, IsCutAnywhereWithoutHarm) {
  for (const std::string name :
       {"made_progressive_444.jpg", "made_alpha.webp", "basn3p04.png", "made_cmyk.jpg", "iftbwn0g16.png"}) {
    const std::string file = image_file(name);
    const std::size_t step = file.size() > 600 ? 7 : 1;
    for (std::size_t length = 0; length < file.size(); length += step) {
      EXPECT_NE(refusal([&] { decode(bytes_of(std::string_view(file).substr(0, length)), name); }), "")
          << name << " cut to " << length;
    }
  }
}

TEST(Image, TurnsAsExifSaysWhereAsked) {
  int turned = 0;
  for (const auto& want : golden("decode")) {
    const std::string name = want["file"];
    // Pillow also reads an orientation out of XMP text, which cameras do not write alone and OpenCV does not read.
    if (!want.contains("turned") || kStricter.contains(name) || name == "xmp_tags_orientation_exiftool.png") continue;
    SCOPED_TRACE(name);
    const std::string file = image_file(name);
    const Image image = decode(bytes_of(file), name, {.exif_orientation = true});
    EXPECT_EQ(checksum(image.rgb), want["turned"]);
    EXPECT_EQ(probe(bytes_of(file), name).orientation, want["orientation"]);
    EXPECT_EQ(probe(bytes_of(file), name).oriented(), image.size());
    turned += want["orientation"] != 1;
  }
  EXPECT_GE(turned, 9);
}

TEST(Image, ProbeReadsTheHeaderAlone) {
  const std::string file = image_file("hopper.jpg");
  const Header header = probe(bytes_of(std::string_view(file).substr(0, 700)), "hopper.jpg");
  EXPECT_EQ(header.format, Format::jpeg);
  EXPECT_EQ(header.size, (Size{128, 128}));
  EXPECT_EQ(header.channels, 3);

  const std::string palette = image_file("basn3p02.png");
  EXPECT_TRUE(probe(bytes_of(palette), "p").palette);
  EXPECT_EQ(probe(bytes_of(palette), "p").bit_depth, 2);
  EXPECT_EQ(probe(bytes_of(image_file("made_alpha.webp")), "w").channels, 4);
}

TEST(Image, LimitOfPixelsCanBeSet) {
  const std::string file = image_file("hopper.jpg");
  EXPECT_NO_THROW(decode(bytes_of(file), "h", {.max_pixels = 128 * 128}));
  EXPECT_THAT(refusal([&] { decode(bytes_of(file), "h", {.max_pixels = 128 * 128 - 1}); }),
              HasSubstr("limit of 16383 pixels"));
  EXPECT_THAT(refusal([&] { probe(bytes_of(file), "h", {.max_pixels = 1}); }), HasSubstr("limit of 1 pixels"));
}

TEST(Image, LabelMapsKeepTheirIndices) {
  int read = 0;
  for (const auto& want : golden("decode")) {
    if (!want.contains("labels")) continue;
    const std::string name = want["file"];
    SCOPED_TRACE(name);
    if (kStricter.contains(name)) continue;
    const std::string file = image_file(name);
    const LabelMap labels = decode_label_map(bytes_of(file), name);
    EXPECT_EQ(checksum(labels.values), want["labels"]);
    EXPECT_EQ(labels.height, want["height"]);
    ++read;
  }
  EXPECT_GE(read, 30);
}

TEST(Image, ColourAndSixteenBitsAreNoLabelMap) {
  for (const std::string name : {"basn2c08.png", "basn6a08.png", "basn0g16.png", "hopper.jpg", "uncompressed_la.png"}) {
    const std::string file = image_file(name);
    EXPECT_THAT(refusal([&] { decode_label_map(bytes_of(file), name); }), HasSubstr("label map")) << name;
  }
}

TEST(ExifOrientation, IgnoresMalformedStructures) {
  const auto of = [](std::string_view text) { return exif_orientation(bytes_of(text)); };
  const std::string good("II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0", 26);
  EXPECT_EQ(of(good), 6);
  for (std::size_t length = 0; length < 22; ++length) EXPECT_EQ(of(good.substr(0, length)), 1) << length;
  std::string far = good;
  far[4] = far[5] = far[6] = far[7] = '\xff';
  EXPECT_EQ(of(far), 1);
  std::string nine = good;
  nine[18] = 9;
  EXPECT_EQ(of(nine), 1);
  std::string many = good;
  many[8] = many[9] = '\xff', many[10] = 0;
  EXPECT_EQ(of(many), 1);
}

}  // namespace
}  // namespace tessera::image
