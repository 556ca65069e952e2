#include "tessera/core/hash.hpp"

#include <gtest/gtest.h>

#include "support/support.hpp"
#include "tessera/core/error.hpp"

namespace tessera {
namespace {

// Expected values: python-xxhash 4.1.0 (xxh3_64_hexdigest, xxh3_128_hexdigest).
TEST(Hash, GivesXxh3OfKnownTexts) {
  EXPECT_EQ(xxh3_64("", 0), 0x2d06800538d394c2ULL);
  EXPECT_EQ(xxh3_64("tessera", 7), 0xbf456a4d41446d60ULL);
  EXPECT_EQ(hash_hex128(""), "99aa06d3014798d86001c324468d497f");
  EXPECT_EQ(hash_hex128("tessera"), "157800c744fd9a1904c1a9b49517cd58");
}

TEST(Hash, OfPiecesAndOfAFileIsThatOfTheWhole) {
  std::string text;
  for (int i = 0; i < 300000; ++i) text += std::to_string(i);
  Hash128 pieces;
  pieces.update(text.substr(0, 13)).update("").update(text.substr(13));
  EXPECT_EQ(pieces.hex(), hash_hex128(text));
  const testing_support::TempDir dir;
  testing_support::write_file(dir / "whole", text);
  EXPECT_EQ(hash_file_hex128(dir / "whole"), hash_hex128(text));
  testing_support::write_file(dir / "empty", "");
  EXPECT_EQ(hash_file_hex128(dir / "empty"), hash_hex128(""));
}

TEST(Hash, OfAMissingFileIsRefused) {
  EXPECT_THROW(hash_file_hex128("/nowhere/to/be/found"), RequestError);
}

}  // namespace
}  // namespace tessera
