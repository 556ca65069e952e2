#include "tessera/data/manifest.hpp"

#include <gtest/gtest.h>

#include "support/support.hpp"
#include "tessera/core/error.hpp"

namespace tessera::data {
namespace {

using testing_support::TempDir;
using testing_support::write_file;

Manifest sample_manifest() {
  Manifest manifest;
  manifest.made_by = "tessera x prepare --draws 2";
  manifest.command_line = "tessera prepare --output_dir 'a b'";
  manifest.tokenizer_hash = "abc";
  manifest.counts["train: reason_seg/ReasonSeg/train"] = {"reason_seg", 3, 6, 9, 8, 700, 1};
  manifest.skipped = {{{"/data/a.json", "shapes[0]", "a \"quoted\" reason"}, "reason_seg/ReasonSeg/train"}};
  manifest.shards = {{"train-00000-of-00001.h5", "train", 12345, "00ff", "0a", 3, 6}};
  return manifest;
}

TEST(Manifest, ReadsBackWhatItWrote) {
  const TempDir dir;
  const auto written = sample_manifest();
  write_manifest(dir / "manifest.json", written);
  const auto read = read_manifest(dir / "manifest.json");
  EXPECT_TRUE(read.complete);
  EXPECT_EQ(read.made_by, written.made_by);
  EXPECT_EQ(read.command_line, written.command_line);
  ASSERT_EQ(read.skipped.size(), 1U);
  EXPECT_EQ(read.skipped[0].problem, written.skipped[0].problem);
  EXPECT_EQ(read.skipped[0].source, written.skipped[0].source);
  ASSERT_EQ(read.shards.size(), 1U);
  EXPECT_EQ(read.shards[0].bytes, 12345);
  EXPECT_EQ(read.shards[0].xxh3, "00ff");
  const auto& counts = read.counts.at("train: reason_seg/ReasonSeg/train");
  EXPECT_EQ(counts.family, "reason_seg");
  EXPECT_EQ(counts.tokens, 700);
  EXPECT_EQ(counts.skipped, 1);
}

TEST(Manifest, RefusesOtherJsonAndNewerVersions) {
  const TempDir dir;
  for (const char* text :
       {"", "[]", "{}", R"({"format": "x"})", R"({"format": "tessera-prepared", "format_version": [2, 0]})",
        R"({"format": "tessera-prepared", "format_version": [1, 0]})"}) {
    write_file(dir / "manifest.json", text);
    EXPECT_THROW(read_manifest(dir / "manifest.json"), RequestError) << text;
  }
}

}  // namespace
}  // namespace tessera::data
