#include "tessera/train/tensorboard.hpp"

#include <gtest/gtest.h>

#include <cstring>

#include "support/support.hpp"

namespace tessera::train {
namespace {

TEST(TensorBoard, Crc32cHasItsPublishedCheckValue) {
  EXPECT_EQ(crc32c("123456789"), 0xe3069283U);
}

TEST(TensorBoard, RecordsAreFramedByLengthAndChecksums) {
  testing_support::TempDir dir;
  {
    TensorBoardWriter writer(dir.path());
    writer.add(7, {{"train/loss", 1.5}});
  }
  std::string bytes;
  for (const auto& entry : std::filesystem::directory_iterator(dir.path()))
    bytes = testing_support::read_file(entry.path());
  std::size_t at = 0;
  int records = 0;
  while (at < bytes.size()) {
    std::uint64_t length = 0;
    std::memcpy(&length, bytes.data() + at, 8);
    ASSERT_LE(at + 16 + length, bytes.size());
    at += 16 + length;
    ++records;
  }
  EXPECT_EQ(at, bytes.size());
  EXPECT_EQ(records, 3);  // the version, the start and one step
  EXPECT_NE(bytes.find("train/loss"), std::string::npos);
}

}  // namespace
}  // namespace tessera::train
