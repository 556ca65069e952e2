#include "tessera/text/image_tokens.hpp"

#include <gtest/gtest.h>

#include "text/golden_folder.hpp"

namespace tessera::text {
namespace {

using Ids = std::vector<std::int64_t>;

TEST(ImageTokens, KeepsOneBosAndPutsAPlaceholderBetweenThePieces) {
  const testing_support::TempDir folder;
  testing_support::put_model("mistral_v1", folder.path());
  const Tokenizer tokenizer = load_tokenizer(folder.path());
  const Ids a = tokenizer.encode_ids("a");
  const Ids b = tokenizer.encode_ids("\nb");
  Ids expected = a;
  expected.push_back(kImageId);
  expected.insert(expected.end(), b.begin() + 1, b.end());
  EXPECT_EQ(encode_with_images(tokenizer, "a<image>\nb").ids, expected);
  EXPECT_EQ(encode_with_images(tokenizer, "<image><image>").ids, (Ids{1, kImageId, kImageId}));
  EXPECT_EQ(encode_with_images(tokenizer, "").ids, Ids{1});
  const Encoding encoding = encode_with_images(tokenizer, "<image>x");
  ASSERT_EQ(encoding.pieces.size(), encoding.ids.size());
  EXPECT_EQ(encoding.pieces[1], "<image>");
}

TEST(ImageTokens, KeepsEveryIdOfATokenizerWithoutBos) {
  const testing_support::TempDir folder;
  testing_support::put_model("qwen", folder.path());
  const Tokenizer tokenizer = load_tokenizer(folder.path());
  Ids expected = tokenizer.encode_ids("look: ");
  expected.push_back(kImageId);
  const Ids rest = tokenizer.encode_ids("\nhere");
  expected.insert(expected.end(), rest.begin(), rest.end());
  EXPECT_EQ(encode_with_images(tokenizer, "look: <image>\nhere").ids, expected);
}

TEST(ImageTokens, WrapsEveryImage) {
  EXPECT_EQ(wrap_image_tokens("a<image>b<image>"), "a<im_start><image><im_end>b<im_start><image><im_end>");
}

}  // namespace
}  // namespace tessera::text
