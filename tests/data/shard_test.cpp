#include "tessera/data/shard.hpp"

#include <gtest/gtest.h>

#include "data/small_shard.hpp"
#include "support/support.hpp"
#include "tessera/core/error.hpp"
#include "tessera/data/shard_file.hpp"
#include "tessera/io/hdf5.hpp"

namespace tessera::data {
namespace {

using testing_support::read_file;
using testing_support::TempDir;

TEST(Shard, EqualContentGivesEqualBytes) {
  const TempDir dir;
  write_shard(dir / "a.h5", small_header(), small_shard());
  write_shard(dir / "b.h5", small_header(), small_shard());
  EXPECT_EQ(read_file(dir / "a.h5"), read_file(dir / "b.h5"));
}

TEST(Shard, RaggedRowsKeepTheirLengths) {
  Ragged<std::int32_t> rows;
  rows.add(std::vector<std::int32_t>{1, 2, 3});
  rows.add({});
  rows.add(std::vector<std::int32_t>{4});
  EXPECT_EQ(rows.rows(), 3);
  EXPECT_EQ(rows.offsets, (std::vector<std::int64_t>{0, 3, 3, 4}));
}

TEST(Shard, CarriesItsHeaderAndTheChecksumOfEachDataset) {
  const TempDir dir;
  write_shard(dir / "a.h5", small_header(), small_shard());
  const auto file = io::H5File::open(dir / "a.h5");
  const auto root = file.attributes();
  EXPECT_EQ(root.text("format"), "tessera-shard");
  EXPECT_EQ(root.integer("format_major"), 1);
  EXPECT_EQ(root.integer("image_token_id"), -200);
  EXPECT_EQ(root.integer("ignore_label"), -100);
  for (const char* name :
       {"images/bytes/values", "samples/image", "conversations/ids/offsets", "masks/counts/values"}) {
    EXPECT_NE(file.dataset(name).attributes().integer("xxh3"), 0) << name;
  }
}

}  // namespace
}  // namespace tessera::data
