#pragma once
// One unit of work, an image and its items as a rule, made into tables: read, check, draw, tokenise.
#include <cstdint>
#include <filesystem>
#include <map>
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
  std::int64_t words = 0;
};

struct BuiltImage {
  std::string name;
  std::string bytes;  ///< encoded
  image::Size size;
};

/// What goes into a shard for one unit; no samples where everything about it was broken.
struct BuiltUnit {
  std::vector<BuiltImage> images;
  std::vector<image::Rle> masks;
  std::vector<BuiltSample> samples;
  std::vector<SkippedItem> skipped;
};

struct UnitBuilder {
  const std::vector<std::unique_ptr<Reader>>* readers = nullptr;
  const text::Tokenizer* tokenizer = nullptr;
  const text::Template* form = nullptr;
  text::ConversationOptions encoding;  ///< its label, and whether there is an image, are set per sample
  bool use_start_end = false;          ///< put <im_start> and <im_end> around images
  std::int64_t seg_token_id = -1;
  std::uint64_t seed = 0;
  std::int64_t draws = 1;

  /// Never throws for a broken image or item: those end in `skipped`. Safe from several threads.
  BuiltUnit build(const WorkUnit& unit) const;

 private:
  void add_item(const ItemOfImage& at, const WorkUnit& unit, BuiltUnit& built) const;
  BuiltConversation encode(const Conversation& conversation, std::size_t images, const std::string& label) const;
  std::string prompt(const Conversation& conversation, std::size_t images, const std::string& label) const;
};

/// Rows of the images that a shard has already, by name.
using ImageRows = std::map<std::string, std::int32_t>;

/// Appends what was built; a reader is a row of ShardData::sources. Images that several units share are stored once.
void append_unit(ShardData& shard, ImageRows& rows, const BuiltUnit& unit);

}  // namespace tessera::data
