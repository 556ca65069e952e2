#pragma once
// One image and its items made into tables: read, check, draw, tokenise.
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tessera/data/manifest.hpp"
#include "tessera/data/plan.hpp"
#include "tessera/data/shard.hpp"
#include "tessera/text/conversation.hpp"
#include "tessera/text/tokenizer.hpp"

namespace tessera::data {

struct BuiltConversation {
  std::vector<std::int32_t> ids, labels;
  std::string text, question;
};

struct BuiltSample {
  std::int32_t reader = 0;
  std::int64_t item = 0;
  std::int32_t draw = 0;
  std::uint8_t is_sentence = kSentenceUnknown;
  std::vector<BuiltConversation> conversations;
  std::vector<std::int64_t> targets;  ///< rows of BuiltUnit::masks
  std::int64_t ignore_mask = -1;      ///< likewise
  std::vector<std::int32_t> choices;
};

/// What goes into a shard for one image; no samples where everything about it was broken.
struct BuiltUnit {
  std::string image_name;
  std::string image;  ///< encoded
  image::Size size;
  std::vector<image::Rle> masks;
  std::vector<BuiltSample> samples;
  std::vector<SkippedItem> skipped;
};

struct UnitBuilder {
  std::filesystem::path dataset_dir;
  const std::vector<std::unique_ptr<Reader>>* readers = nullptr;
  const text::Tokenizer* tokenizer = nullptr;
  const text::Template* form = nullptr;
  text::ConversationOptions encoding;  ///< its label is set per sample
  std::int64_t seg_token_id = -1;
  std::uint64_t seed = 0;
  std::int64_t draws = 1;

  /// Never throws for a broken image or item: those end in `skipped`. Safe from several threads.
  BuiltUnit build(const WorkUnit& unit) const;

 private:
  void add_item(const ItemOfImage& at, BuiltUnit& built) const;
  BuiltConversation encode(const Conversation& conversation, const std::string& label) const;
};

/// Appends what was built; a reader is a row of ShardData::sources.
void append_unit(ShardData& shard, const BuiltUnit& unit);

}  // namespace tessera::data
