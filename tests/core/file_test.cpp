#include "tessera/core/file.hpp"

#include <gtest/gtest.h>

#include <cstring>

#include "support/limits.hpp"
#include "support/support.hpp"
#include "tessera/core/error.hpp"

namespace tessera {
namespace {

namespace fs = std::filesystem;
using testing_support::FileSizeLimit;
using testing_support::message_of;
using testing_support::TempDir;

std::size_t entries_in(const fs::path& directory) {
  return static_cast<std::size_t>(std::distance(fs::directory_iterator(directory), fs::directory_iterator()));
}

TEST(AtomicFile, AppearsOnlyWhenCommitted) {
  TempDir dir;
  {
    AtomicFile file(dir / "a.bin");
    file.append("hello ");
    file.append("world");
    file.write_at(0, "H", 1);
    EXPECT_EQ(file.position(), 11);
    EXPECT_FALSE(fs::exists(dir / "a.bin"));
    file.commit();
  }
  EXPECT_EQ(read_file(dir / "a.bin"), "Hello world");
  EXPECT_EQ(entries_in(dir.path()), 1U);
}

TEST(AtomicFile, LeavesTheOldContentAndNoPartialWhenAbandoned) {
  TempDir dir;
  write_file(dir / "a.bin", "old");
  {
    AtomicFile file(dir / "a.bin");
    file.append("new");
  }
  EXPECT_EQ(read_file(dir / "a.bin"), "old");
  EXPECT_EQ(entries_in(dir.path()), 1U);
}

TEST(AtomicFile, NamesFileAndBytesWhenTheSpaceEnds) {
  TempDir dir;
  std::string said;
  {
    const FileSizeLimit limit(1000);
    said = message_of<RunError>([&] {
      AtomicFile file(dir / "big.bin");
      file.append(std::string(600, 'x'));
      file.append(std::string(600, 'y'));
      file.commit();
    });
  }
  EXPECT_NE(said.find("big.bin"), std::string::npos) << said;
  EXPECT_NE(said.find("400 of 600 bytes written at offset 600"), std::string::npos) << said;
  EXPECT_NE(said.find("File too large"), std::string::npos) << said;
  EXPECT_EQ(entries_in(dir.path()), 0U);
}

TEST(AtomicFile, ReservesSpaceWithoutChangingTheSize) {
  TempDir dir;
  AtomicFile file(dir / "a.bin");
  file.reserve(1 << 20);
  file.append("abc");
  file.commit();
  EXPECT_EQ(fs::file_size(dir / "a.bin"), 3U);
}

TEST(AtomicFile, NamesADirectoryThatIsMissing) {
  TempDir dir;
  const auto said = message_of<RunError>([&] { AtomicFile file(dir / "no" / "a.bin"); });
  EXPECT_NE(said.find("a.bin"), std::string::npos);
  EXPECT_NE(said.find("No such file or directory"), std::string::npos);
  EXPECT_THROW(AtomicFile(dir.path() / ""), RunError);
}

TEST(ReadFile, RefusesMissingDirectoryAndTooLarge) {
  TempDir dir;
  write_file(dir / "a.txt", std::string(5000, 'a'));
  EXPECT_EQ(read_file(dir / "a.txt", 5000).size(), 5000U);
  EXPECT_NE(message_of<RequestError>([&] { read_file(dir / "a.txt", 4999); }).find("has 5000 bytes, the limit is 4999"),
            std::string::npos);
  EXPECT_NE(message_of<RequestError>([&] { read_file(dir / "b.txt"); }).find("No such file"), std::string::npos);
  EXPECT_NE(message_of<RequestError>([&] { read_file(dir.path()); }).find("it is a directory"), std::string::npos);
}

TEST(ReadFile, ReadsFilesWhoseSizeIsNotKnownBefore) {
  EXPECT_NE(read_file("/proc/self/status").find("VmPeak"), std::string::npos);
  EXPECT_EQ(read_file("/dev/null"), "");
}

TEST(InputFile, ReadsRangesAndRefusesThoseOutside) {
  TempDir dir;
  write_file(dir / "a.bin", "0123456789");
  const InputFile file(dir / "a.bin");
  EXPECT_EQ(file.size(), 10);
  char out[4] = {};
  file.read(6, out, 4);
  EXPECT_EQ(std::string(out, 4), "6789");
  EXPECT_THROW(file.read(7, out, 4), RequestError);
  EXPECT_THROW(file.read(-1, out, 1), RequestError);
  EXPECT_THROW(file.read(11, out, 0), RequestError);
  EXPECT_THROW(file.read(1, out, SIZE_MAX), RequestError);
}

TEST(InputFile, SaysThatTheFileBecameShorter) {
  TempDir dir;
  write_file(dir / "a.bin", "0123456789");
  const InputFile file(dir / "a.bin");
  fs::resize_file(dir / "a.bin", 5);
  char out[10];
  const auto said = message_of<RequestError>([&] { file.read(0, out, 10); });
  EXPECT_NE(said.find("became shorter"), std::string::npos) << said;
}

TEST(MappedFile, ShowsTheBytesAndAnEmptyFileAsNone) {
  TempDir dir;
  write_file(dir / "a.bin", "abc");
  write_file(dir / "empty", "");
  MappedFile file(dir / "a.bin");
  const MappedFile moved = std::move(file);
  ASSERT_EQ(moved.bytes().size(), 3U);
  EXPECT_EQ(std::memcmp(moved.bytes().data(), "abc", 3), 0);
  EXPECT_TRUE(MappedFile(dir / "empty").bytes().empty());
  EXPECT_THROW(MappedFile(dir / "none"), RequestError);
  EXPECT_THROW(MappedFile(dir.path()), RequestError);
}

TEST(ListFiles, SortsAndFiltersByExtensionInAnyCase) {
  TempDir dir;
  fs::create_directories(dir / "sub");
  for (const char* name : {"b.JPG", "a.jpg", "c.txt", "sub/d.jpg"}) write_file(dir / name, "");
  const std::vector<std::string> jpg{".jpg"};
  EXPECT_EQ(list_files(dir.path(), jpg), (std::vector<fs::path>{dir / "a.jpg", dir / "b.JPG"}));
  EXPECT_EQ(list_files(dir.path(), jpg, true).size(), 3U);
  EXPECT_EQ(list_files(dir.path()).size(), 3U);
  EXPECT_THROW(list_files(dir / "none"), RequestError);
}

TEST(MakeDirectories, NamesAFileInTheWay) {
  TempDir dir;
  make_directories(dir / "a/b");
  make_directories(dir / "a/b");
  write_file(dir / "f", "");
  EXPECT_THROW(make_directories(dir / "f"), RunError);
  EXPECT_THROW(make_directories(dir / "f/g"), RunError);
}

}  // namespace
}  // namespace tessera
