#include "tessera/io/ragged.hpp"

#include <gtest/gtest.h>

#include "support/limits.hpp"
#include "support/support.hpp"
#include "tessera/core/error.hpp"

namespace tessera::io {
namespace {

using testing_support::message_of;
using testing_support::TempDir;

std::vector<std::int32_t> row_of(std::int64_t i) {
  return std::vector<std::int32_t>(static_cast<std::size_t>((i * 37) % 11), static_cast<std::int32_t>(i));
}

TEST(Ragged, GivesBackEveryRowOfManyChunks) {
  TempDir dir;
  constexpr std::int64_t kRows = 40000;  // more than are collected before a write
  {
    H5File file = H5File::create(dir / "a.h5");
    RaggedWriter<std::int32_t> writer(file, "tokens", {.chunk = 1000, .deflate = 1});
    for (std::int64_t i = 0; i < kRows; ++i) writer.append(row_of(i));
    EXPECT_EQ(writer.rows(), kRows);
    writer.finish();
    file.commit();
  }
  const H5File file = H5File::open(dir / "a.h5");
  const RaggedReader<std::int32_t> reader(file, "tokens");
  ASSERT_EQ(reader.rows(), kRows);
  EXPECT_EQ(reader.row(0), row_of(0));
  EXPECT_EQ(reader.row(kRows - 1), row_of(kRows - 1));
  const auto some = reader.rows(32760, 20);
  const auto lengths = reader.lengths(32760, 20);
  for (std::int64_t i = 0; i < 20; ++i) {
    EXPECT_EQ(some[static_cast<std::size_t>(i)], row_of(32760 + i));
    EXPECT_EQ(lengths[static_cast<std::size_t>(i)], static_cast<std::int64_t>(row_of(32760 + i).size()));
  }
  EXPECT_TRUE(reader.rows(kRows, 0).empty());
  EXPECT_THROW(reader.row(kRows), RequestError);
  EXPECT_THROW(reader.row(-1), RequestError);
}

TEST(Ragged, HoldsTextsWithAnyBytesAndNoRowsAtAll) {
  TempDir dir;
  const std::string text("a\0b\xff", 4);
  {
    H5File file = H5File::create(dir / "a.h5");
    RaggedWriter<std::uint8_t> texts(file, "texts");
    RaggedWriter<std::uint8_t> none(file, "none");
    texts.append(as_row(text));
    texts.append(as_row(""));
    texts.finish();
    none.finish();
    file.commit();
  }
  const H5File file = H5File::open(dir / "a.h5");
  const RaggedReader<std::uint8_t> texts(file, "texts");
  EXPECT_EQ(as_text(texts.row(0)), text);
  EXPECT_EQ(as_text(texts.row(1)), "");
  EXPECT_EQ(RaggedReader<std::uint8_t>(file, "none").rows(), 0);
}

void write_offsets(const std::filesystem::path& path, const std::vector<std::int64_t>& offsets) {
  H5File file = H5File::create(path);
  file.create_dataset("r/values", H5Type::u8).append(std::span<const std::uint8_t>(std::vector<std::uint8_t>(10)));
  file.create_dataset("r/offsets", H5Type::i64).append(std::span<const std::int64_t>(offsets));
  file.commit();
}

TEST(Ragged, RefusesOffsetsThatLie) {
  TempDir dir;
  write_offsets(dir / "short.h5", {0, 4, 9});
  write_offsets(dir / "empty.h5", {});
  write_offsets(dir / "inside.h5", {0, 1'000'000'000'000, 4, -3, 10});
  const H5File cut = H5File::open(dir / "short.h5");
  EXPECT_NE(
      message_of<RequestError>([&] { RaggedReader<std::uint8_t>(cut, "r"); }).find("from 0 to 9, the values are 10"),
      std::string::npos);
  const H5File empty = H5File::open(dir / "empty.h5");
  EXPECT_THROW(RaggedReader<std::uint8_t>(empty, "r"), RequestError);
  const H5File inside = H5File::open(dir / "inside.h5");
  const RaggedReader<std::uint8_t> reader(inside, "r");
  for (std::int64_t i = 0; i < 4; ++i) EXPECT_THROW(reader.row(i), RequestError) << i;
  EXPECT_THROW((RaggedReader<std::int32_t>(inside, "r")), RequestError);
}

}  // namespace
}  // namespace tessera::io
