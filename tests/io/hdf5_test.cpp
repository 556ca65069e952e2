#include "tessera/io/hdf5.hpp"

#include <gtest/gtest.h>

#include <fstream>
#include <numeric>

#include "support/limits.hpp"
#include "support/support.hpp"
#include "tessera/core/error.hpp"

namespace tessera::io {
namespace {

namespace fs = std::filesystem;
using testing_support::FileSizeLimit;
using testing_support::message_of;
using testing_support::TempDir;

template <class T>
std::span<const T> view(const std::vector<T>& values) {
  return values;
}

template <class T>
void round_trip(const fs::path& path, H5Type type, H5Layout layout) {
  std::vector<T> values(1237);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<T>(i * 7 + 3);
  {
    H5File file = H5File::create(path);
    {
      H5Dataset data = file.create_dataset("a/b", type, layout);
      data.append(view(values));
      data.append(std::span<const T>());
      data.append(std::span<const T>(values).subspan(5, 3));
      EXPECT_EQ(data.size(), 1240);
    }
    file.commit();
  }
  const H5File file = H5File::open(path);
  const H5Dataset data = file.dataset("a/b", type);
  ASSERT_EQ(data.size(), 1240);
  auto all = data.read_all<T>();
  EXPECT_TRUE(std::equal(values.begin(), values.end(), all.begin()));
  EXPECT_EQ(all[1238], values[6]);
  std::vector<T> some(10);
  data.read<T>(95, 10, some.data());
  EXPECT_TRUE(std::equal(some.begin(), some.end(), values.begin() + 95));
}

TEST(H5Dataset, GivesBackWhatWasAppendedInEveryType) {
  TempDir dir;
  const H5Layout odd{.chunk = 100};
  round_trip<std::uint8_t>(dir / "u8.h5", H5Type::u8, {});
  round_trip<std::uint16_t>(dir / "u16.h5", H5Type::u16, odd);
  round_trip<std::int32_t>(dir / "i32.h5", H5Type::i32, odd);
  round_trip<std::int64_t>(dir / "i64.h5", H5Type::i64, odd);
  round_trip<float>(dir / "f32.h5", H5Type::f32, {.chunk = 33, .deflate = 4});
  round_trip<double>(dir / "f64.h5", H5Type::f64, odd);
}

TEST(H5Dataset, DeflateMakesRepetitionSmall) {
  TempDir dir;
  const std::vector<std::int32_t> same(100000, 42);
  for (const int level : {0, 6}) {
    H5File file = H5File::create(dir / fmt::format("{}.h5", level));
    file.create_dataset("x", H5Type::i32, {.deflate = level}).append(view(same));
    file.commit();
  }
  EXPECT_LT(fs::file_size(dir / "6.h5") * 20, fs::file_size(dir / "0.h5"));
}

TEST(H5Dataset, RefusesRangesOutsideAndOtherTypes) {
  TempDir dir;
  {
    H5File file = H5File::create(dir / "a.h5");
    file.create_dataset("x", H5Type::i32).append(view(std::vector<std::int32_t>{1, 2, 3}));
    file.commit();
  }
  const H5File file = H5File::open(dir / "a.h5");
  const H5Dataset data = file.dataset("x");
  std::int32_t out[4];
  EXPECT_NE(message_of<RequestError>([&] {
              data.read<std::int32_t>(1, 3, out);
            }).find("elements 1 to 4 were asked for, it has 3"),
            std::string::npos);
  EXPECT_THROW(data.read<std::int32_t>(-1, 1, out), RequestError);
  EXPECT_THROW(data.read<float>(0, 1, reinterpret_cast<float*>(out)), RequestError);
  EXPECT_NE(message_of<RequestError>([&] { file.dataset("x", H5Type::u8); }).find("holds i32, u8 is expected"),
            std::string::npos);
  const auto missing = message_of<RequestError>([&] { file.dataset("y/z"); });
  EXPECT_NE(missing.find("a.h5"), std::string::npos);
  EXPECT_NE(missing.find("'y/z': there is none"), std::string::npos);
}

TEST(H5Dataset, OneRunOfBytesIsReadWithoutHdf5) {
  TempDir dir;
  std::vector<std::int32_t> values(5000);
  std::iota(values.begin(), values.end(), 7);
  {
    H5File file = H5File::create(dir / "a.h5");
    auto data = file.create_dataset("g/x", H5Type::i32, {.contiguous = 5000});
    data.append(view(values));
    EXPECT_THROW(data.append(view(values)), RunError);  // it is full
    file.create_dataset("g/none", H5Type::i32, {.contiguous = 0});
    file.create_dataset("g/chunks", H5Type::i32).append(view(values));
  }
  {
    H5File file = H5File::create(dir / "a.h5");
    file.create_dataset("g/x", H5Type::i32, {.contiguous = 5000}).append(view(values));
    file.create_dataset("g/none", H5Type::i32, {.contiguous = 0});
    file.create_dataset("g/chunks", H5Type::i32).append(view(values));
    file.commit();
  }
  const H5File file = H5File::open(dir / "a.h5");
  EXPECT_TRUE(file.dataset("g/x").reads_aside());
  EXPECT_FALSE(file.dataset("g/chunks").reads_aside());
  EXPECT_EQ(file.dataset("g/x").read_all<std::int32_t>(), values);
  EXPECT_EQ(file.dataset("g/chunks").read_all<std::int32_t>(), values);
  EXPECT_TRUE(file.dataset("g/none").read_all<std::int32_t>().empty());
}

TEST(H5File, ASealedFileNoticesEveryFlippedBitOfItsStructure) {
  TempDir dir;
  const std::vector<std::int64_t> values(300, 0x5555555555555555);
  {
    H5File file = H5File::create(dir / "a.h5", /*sealed=*/true);
    file.attributes().set("text", std::string_view("kept by HDF5 without a checksum"));
    file.create_dataset("g/none", H5Type::i64, {.contiguous = 0});
    file.create_dataset("g/x", H5Type::i64, {.contiguous = 300}).append(view(values));
    file.commit();
  }
  const auto sound = testing_support::read_file(dir / "a.h5");
  const auto first = sound.find(std::string(2400, '\x55'));
  ASSERT_NE(first, std::string::npos);
  EXPECT_EQ(H5File::open(dir / "a.h5").attributes().text("text"), "kept by HDF5 without a checksum");
  const auto put = [&](std::size_t at, char byte) {
    std::fstream file(dir / "a.h5", std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(static_cast<std::streamoff>(at)).put(byte);
  };
  for (std::size_t at = 0; at < sound.size(); ++at) {
    put(at, static_cast<char>(sound[at] ^ (1 << (at % 8))));
    if (at >= first && at < first + 2400) {
      EXPECT_NE(H5File::open(dir / "a.h5").dataset("g/x").read_all<std::int64_t>(), values) << at;
    } else {
      EXPECT_THROW(H5File::open(dir / "a.h5"), RequestError) << at;
    }
    put(at, sound[at]);
  }
}

TEST(H5File, ListsAndFindsObjects) {
  TempDir dir;
  {
    H5File file = H5File::create(dir / "a.h5");
    file.create_dataset("g/b", H5Type::u8);
    file.create_dataset("g/a", H5Type::u8);
    file.create_group("h");
    file.commit();
  }
  const H5File file = H5File::open(dir / "a.h5");
  EXPECT_EQ(file.names(), (std::vector<std::string>{"g", "h"}));
  EXPECT_EQ(file.names("g"), (std::vector<std::string>{"a", "b"}));
  EXPECT_TRUE(file.has("g/a"));
  EXPECT_TRUE(file.has("/g/a"));
  EXPECT_FALSE(file.has("g/c"));
  EXPECT_FALSE(file.has("g/a/b/c"));
  EXPECT_TRUE(file.is_group("g"));
  EXPECT_FALSE(file.is_group("g/a"));
  EXPECT_FALSE(file.is_group("nothing"));
  EXPECT_THROW(file.names("g/a"), RequestError);
  EXPECT_THROW(file.dataset("g"), RequestError);
}

TEST(H5File, AppearsOnlyWhenCommitted) {
  TempDir dir;
  { H5File::create(dir / "a.h5").create_dataset("x", H5Type::u8); }
  EXPECT_TRUE(fs::is_empty(dir.path()));
}

TEST(H5File, RefusesToCommitWhileADatasetIsInUse) {
  TempDir dir;
  H5File file = H5File::create(dir / "a.h5");
  const H5Dataset data = file.create_dataset("x", H5Type::u8);
  EXPECT_NE(message_of<RunError>([&] { file.commit(); }).find("1 objects are still in use"), std::string::npos);
}

TEST(H5File, RefusesWhatIsMissingNotHdf5OrCutShort) {
  TempDir dir;
  {
    H5File file = H5File::create(dir / "a.h5");
    file.create_dataset("x", H5Type::i64).append(view(std::vector<std::int64_t>(100000, 3)));
    file.commit();
  }
  fs::copy_file(dir / "a.h5", dir / "cut.h5");
  fs::resize_file(dir / "cut.h5", fs::file_size(dir / "a.h5") / 2);
  testing_support::write_file(dir / "text.h5", "this is not HDF5");
  EXPECT_NE(message_of<RequestError>([&] { H5File::open(dir / "none.h5"); }).find("No such file"), std::string::npos);
  EXPECT_NE(message_of<RequestError>([&] { H5File::open(dir / "text.h5"); }).find("file signature not found"),
            std::string::npos);
  EXPECT_NE(message_of<RequestError>([&] { H5File::open(dir / "cut.h5"); }).find("truncated file"), std::string::npos);
}

TEST(H5File, PrintsNothingByItself) {
  TempDir dir;
  testing_support::write_file(dir / "text.h5", "this is not HDF5");
  testing::internal::CaptureStderr();
  EXPECT_THROW(H5File::open(dir / "text.h5"), RequestError);
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
}

TEST(H5File, NamesFileAndReasonWhenTheSpaceEnds) {
  TempDir dir;
  std::string said;
  {
    const FileSizeLimit limit(200000);
    said = message_of<RunError>([&] {
      H5File file = H5File::create(dir / "a.h5");
      file.create_dataset("x", H5Type::i64).append(view(std::vector<std::int64_t>(1000000, 3)));
      file.commit();
    });
  }
  EXPECT_NE(said.find("a.h5"), std::string::npos) << said;
  EXPECT_NE(said.find("File too large"), std::string::npos) << said;
  EXPECT_TRUE(fs::is_empty(dir.path()));
}

TEST(H5Attributes, HoldTextsAndNumbersOnFileAndDataset) {
  TempDir dir;
  const std::string long_text(100000, 'x');
  {
    H5File file = H5File::create(dir / "a.h5");
    file.attributes().set("text", "größe ☃");
    file.attributes().set("long", long_text);
    file.attributes().set("n", std::int64_t{-5'000'000'000});
    file.attributes().set("n", std::int64_t{7});  // replaces
    file.create_dataset("x", H5Type::u8).attributes().set("scale", 0.1);
    file.commit();
  }
  const H5File file = H5File::open(dir / "a.h5");
  const auto root = file.attributes();
  EXPECT_EQ(root.text("text"), "größe ☃");
  EXPECT_EQ(root.text("long"), long_text);
  EXPECT_EQ(root.integer("n"), 7);
  EXPECT_EQ(root.names(), (std::vector<std::string>{"long", "n", "text"}));
  EXPECT_EQ(file.dataset("x").attributes().real("scale"), 0.1);
  EXPECT_EQ(file.attributes("x").real("scale"), 0.1);
  EXPECT_FALSE(root.has("m"));
  EXPECT_THROW(root.integer("m"), RequestError);
  EXPECT_THROW(root.integer("text"), RequestError);
  EXPECT_THROW(root.text("n"), RequestError);
  EXPECT_THROW(file.attributes("x").integer("scale"), RequestError);
  EXPECT_THROW(file.attributes("y"), RequestError);
}

TEST(H5Attributes, RefuseATextThatCannotBeStored) {
  TempDir dir;
  H5File file = H5File::create(dir / "a.h5");
  EXPECT_THROW(file.attributes().set("x", std::string_view("a\0b", 3)), RunError);
}

}  // namespace
}  // namespace tessera::io
