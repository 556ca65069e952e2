#include "tessera/io/sources.hpp"

#include <gtest/gtest.h>

#include "io/weights_support.hpp"
#include "support/limits.hpp"
#include "support/support.hpp"
#include "tessera/core/error.hpp"

namespace tessera::io {
namespace {

using testing::first_byte;
using testing::write_bytes_file;
using testing_support::message_of;
using testing_support::TempDir;
using testing_support::write_file;

SourcePtr open_plain(const std::string& path) {
  return std::make_shared<SafetensorsReader>(path);
}

TEST(OverlaySource, TakesEachNameFromTheFirstThatHasIt) {
  TempDir dir;
  write_bytes_file(dir / "a", {{"x", 1}, {"y", 2}});
  write_bytes_file(dir / "b", {{"y", 3}, {"z", 4}});
  const OverlaySource both({open_plain(dir / "a"), open_plain(dir / "b")});
  EXPECT_EQ(both.tensors().size(), 3U);
  EXPECT_EQ(first_byte(both, "x"), 1);
  EXPECT_EQ(first_byte(both, "y"), 2);
  EXPECT_EQ(first_byte(both, "z"), 4);
  EXPECT_EQ(both.where(*both.find("z")), (dir / "b").string());
  std::uint8_t out = 0;
  EXPECT_THROW(both.read({"w", Elem::u8, {3}}, 0, 1, &out), RequestError);
}

TEST(RenamedSource, RenamesAndLeavesOut) {
  TempDir dir;
  write_bytes_file(dir / "a", {{"model.b", 1}, {"model.a", 2}, {"other", 3}});
  const RenamedSource renamed(open_plain(dir / "a"), [](std::string_view name) -> std::optional<std::string> {
    if (!name.starts_with("model.")) return std::nullopt;
    return "z." + std::string(name.substr(6));
  });
  ASSERT_EQ(renamed.tensors().size(), 2U);
  EXPECT_EQ(renamed.tensors()[0].name, "z.a");
  EXPECT_EQ(first_byte(renamed, "z.a"), 2);
  EXPECT_EQ(first_byte(renamed, "z.b"), 1);
  EXPECT_EQ(renamed.find("other"), nullptr);
}

TEST(RenamedSource, RefusesTwoTensorsUnderOneName) {
  TempDir dir;
  write_bytes_file(dir / "a", {{"p", 1}, {"q", 2}});
  const auto source = open_plain(dir / "a");
  EXPECT_NE(message_of<RequestError>([&] {
              RenamedSource(source, [](std::string_view) { return "r"; });
            }).find("tensors 'p' and 'q' both stand for 'r'"),
            std::string::npos);
}

std::string index_complaint(const TempDir& dir, const std::string& index) {
  write_file(dir / "i.json", index);
  return message_of<RequestError>([&] { ShardedSource(dir / "i.json", open_plain); });
}

TEST(ShardedSource, TakesFromEachFileWhatTheIndexSays) {
  TempDir dir;
  write_bytes_file(dir / "a", {{"x", 1}, {"y", 2}});
  write_bytes_file(dir / "b", {{"y", 3}});
  write_file(dir / "i.json", R"({"metadata": {"total_size": 1}, "weight_map": {"x": "a", "y": "b"}})");
  const ShardedSource source(dir / "i.json", open_plain);
  EXPECT_EQ(source.tensors().size(), 2U);
  EXPECT_EQ(first_byte(source, "x"), 1);
  EXPECT_EQ(first_byte(source, "y"), 3);
}

TEST(ShardedSource, NamesWhatTheIndexPromisesAndIsNotThere) {
  TempDir dir;
  write_bytes_file(dir / "a", {{"x", 1}});
  EXPECT_NE(index_complaint(dir, R"({"weight_map": {"x": "a", "y": "a"}})").find("tensor 'y' should be in 'a'"),
            std::string::npos);
  EXPECT_NE(index_complaint(dir, R"({"weight_map": {"x": "gone"}})").find("gone"), std::string::npos);
  EXPECT_NE(index_complaint(dir, "{}").find("'weight_map' is missing"), std::string::npos);
  EXPECT_NE(index_complaint(dir, R"({"weight_map": {"x": 3}})").find("weight_map.x is 3"), std::string::npos);
}

TEST(ShardedSource, RefusesFilesOutsideTheFolder) {
  TempDir dir;
  for (const char* file : {"../a", "/etc/passwd", "..", "", "sub/a"}) {
    EXPECT_NE(
        index_complaint(dir, std::string(R"({"weight_map": {"x": ")") + file + "\"}}").find("not the name of a file"),
        std::string::npos)
        << file;
  }
}

}  // namespace
}  // namespace tessera::io
