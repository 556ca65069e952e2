#include "tessera/core/direct_file.hpp"

#include <gtest/gtest.h>

#include <cstdlib>
#include <numeric>
#include <vector>

#include "support/limits.hpp"
#include "support/support.hpp"
#include "tessera/core/error.hpp"

namespace tessera {
namespace {

using testing_support::message_of;
using testing_support::TempDir;

std::string pattern(std::size_t bytes) {
  std::string out(bytes, '\0');
  for (std::size_t i = 0; i < bytes; ++i) out[i] = static_cast<char>(i * 131 + i / 4096);
  return out;
}

// Pieces of these sizes, from memory that is aligned only where a piece happens to begin so.
void expect_written(const std::filesystem::path& path, const std::vector<std::size_t>& pieces) {
  const auto total = std::accumulate(pieces.begin(), pieces.end(), std::size_t{0});
  const std::string data = pattern(total);
  auto* aligned = static_cast<char*>(std::aligned_alloc(DirectFile::kAlign, (total / 4096 + 1) * 4096));
  ASSERT_NE(aligned, nullptr);
  data.copy(aligned, total);
  DirectFile file(path, static_cast<std::int64_t>(total));
  std::size_t at = 0;
  for (const auto piece : pieces) {
    file.append(aligned + at, piece);
    at += piece;
    EXPECT_EQ(file.position(), static_cast<std::int64_t>(at));
  }
  file.finish();
  std::free(aligned);
  EXPECT_EQ(testing_support::read_file(path), data);
}

TEST(DirectFile, WritesWhatItIsGivenWhateverItsCut) {
  const TempDir dir;
  expect_written(dir / "empty", {});
  expect_written(dir / "small", {1, 2, 3});
  expect_written(dir / "aligned", {4096, 8192});
  expect_written(dir / "tail", {4096, 5});
  expect_written(dir / "one_piece", {3 * 4096 + 17});
  expect_written(dir / "mixed", {8, 4088, 4096, 100, 5'000'000, 3, 9'000'001});
}

TEST(DirectFile, WritesWhereTheFileSystemHasNoDirectWrites) {
  if (!std::filesystem::is_directory("/dev/shm")) GTEST_SKIP() << "no /dev/shm on this machine";
  const std::filesystem::path path = "/dev/shm/tessera_direct_file_test";
  expect_written(path, {8, 4088, 4096, 100, 5'000'000, 3});
  std::filesystem::remove(path);
}

TEST(DirectFile, ReplacesALongerFile) {
  const TempDir dir;
  testing_support::write_file(dir / "f", pattern(100'000));
  expect_written(dir / "f", {10});
}

TEST(DirectFile, RefusesAnotherSizeThanPromised) {
  const TempDir dir;
  DirectFile file(dir / "f", 10);
  file.append("abc", 3);
  EXPECT_NE(message_of<RunError>([&] { file.finish(); }).find("3 bytes appended, 10 promised"), std::string::npos);
}

TEST(DirectFile, NamesTheFileThatCannotBeWritten) {
  const TempDir dir;
  const auto text = message_of<RunError>([&] { DirectFile(dir / "no" / "f", 10); });
  EXPECT_NE(text.find((dir / "no" / "f").string()), std::string::npos) << text;
}

TEST(DirectFile, AFullDiskIsNamed) {
  const TempDir dir;
  const auto text = message_of<RunError>([&] { DirectFile(dir / "f", std::int64_t{1} << 50); });
  EXPECT_NE(text.find((dir / "f").string()), std::string::npos) << text;
}

TEST(DirectFile, StopsWhenCalledOff) {
  const TempDir dir;
  std::atomic<bool> cancelled{false};
  const std::string data = pattern(20'000'000);
  DirectFile file(dir / "f", 40'000'000, &cancelled);
  file.append(data.data(), data.size());
  cancelled = true;
  EXPECT_NE(message_of<RunError>([&] { file.append(data.data(), data.size()); }).find("called off"), std::string::npos);
}

}  // namespace
}  // namespace tessera
