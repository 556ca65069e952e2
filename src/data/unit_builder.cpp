#include "data/unit_builder.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "data/paths.hpp"
#include "data/shard_names.hpp"
#include "data/words.hpp"
#include "tessera/core/file.hpp"
#include "tessera/core/hash.hpp"
#include "tessera/text/image_tokens.hpp"

namespace tessera::data {
namespace {

namespace fs = std::filesystem;

/// The image's bytes and size, all of it read so that damage shows now.
BuiltImage read_image(const fs::path& folder, const std::string& name, bool oriented) {
  const fs::path path = folder / name;
  if (!stays_inside(name)) throw BrokenSample({path.string(), "", "the path leaves the data set folder"});
  if (!fs::exists(path)) throw BrokenSample({path.string(), "", "the image is missing"});
  BuiltImage image{name, {}, {}};
  try {
    image.bytes = read_file(path);
    const auto header = image::check_sound(image::bytes_of(image.bytes), "image");
    image.size = oriented ? header.oriented() : header.size;
  } catch (const RequestError& error) {
    throw BrokenSample({path.string(), "", error.what()});
  }
  return image;
}

std::vector<std::int32_t> narrow(const std::vector<std::int64_t>& ids) {
  return {ids.begin(), ids.end()};
}

std::vector<text::Turn> turns_of(const std::vector<std::string>& messages) {
  std::vector<text::Turn> turns;
  for (std::size_t i = 0; i < messages.size(); ++i) turns.push_back({i % 2 == 0 ? "human" : "gpt", messages[i]});
  return turns;
}

/// The image places must be as many as the images, or the model would take another sample's. LLaVA alone takes an
/// image that its text has no place for, as its record may.
void check_places(std::int64_t places, std::size_t images, bool lisa) {
  const auto count = static_cast<std::int64_t>(images);
  if (lisa && count != 1) {
    throw RequestError("{} where LISA takes one image a conversation; --recipe llava takes any number",
                       count == 0 ? "text alone" : fmt::format("{} images", count));
  }
  if (places == count || (!lisa && count == 1 && places == 0)) return;
  throw RequestError("{} <image> in its text for {} images", places, count);
}

/// What LLaVA's trainer warns of and then learns nothing from.
std::string mismatch(const text::Template& form, const text::Encoded& encoded) {
  return fmt::format(
      "nothing of its {} tokens would be learned: they do not add up to the turns of template '{}' (another "
      "--conv_type "
      "than the tokenizer's, the template's own markers inside a message, or an unanswered last question)",
      encoded.full_length, form.name);
}

}  // namespace

std::string UnitBuilder::prompt(const Conversation& conversation, std::size_t images, const std::string& label) const {
  const bool lisa = encoding.recipe == text::Recipe::lisa;
  if (lisa && !conversation.as_written) return text::build_prompt(*form, conversation.messages);
  auto turns = turns_of(conversation.messages);
  if (images == 1) {
    text::move_image_to_front(*form, use_start_end && !lisa, turns);  // LISA's encoding adds them itself
  } else if (images > 1 && use_start_end) {
    for (auto& turn : turns) turn.value = text::wrap_image_tokens(turn.value);
  }
  return text::build_prompt(*form, turns, label);
}

BuiltConversation UnitBuilder::encode(const Conversation& conversation, std::size_t images,
                                      const std::string& label) const {
  const bool lisa = encoding.recipe == text::Recipe::lisa;
  auto options = encoding;
  options.label = label;
  options.has_image = images > 0;
  options.start_end = lisa && use_start_end;
  BuiltConversation built;
  built.text = prompt(conversation, images, label);
  const auto encoded = text::encode_conversation(*tokenizer, *form, built.text, options);
  if (encoded.mismatch) throw RequestError("{}", mismatch(*form, encoded));
  check_places(std::count(encoded.input_ids.begin(), encoded.input_ids.end(), text::kImageId), images, lisa);
  built.ids = narrow(encoded.input_ids);
  built.labels = narrow(encoded.labels);
  built.question = conversation.question;
  return built;
}

void UnitBuilder::add_item(const ItemOfImage& at, const WorkUnit& unit, BuiltUnit& built) const {
  const auto& reader = *(*readers)[static_cast<std::size_t>(at.reader)];
  const auto& item = reader.items()[static_cast<std::size_t>(at.item)];
  std::vector<Choices> choices;
  for (std::int64_t d = 0; d < draws; ++d) choices.push_back(choices_of(seed, reader.source(), item.name, d));
  auto made = reader.make(at.item, built.images.empty() ? image::Size{} : built.images.front().size, choices);

  std::vector<BuiltSample> samples;
  for (std::size_t d = 0; d < made.samples.size(); ++d) {
    const auto& sample = made.samples[d];
    BuiltSample out{at.reader, at.item,           static_cast<std::int32_t>(d), sample.is_sentence, {}, {},
                    -1,        choices[d].taken()};
    std::int64_t segs = 0;
    for (const auto& conversation : sample.conversations) {
      out.conversations.push_back(encode(conversation, built.images.size(), item.name));
      segs += std::count(out.conversations.back().ids.begin(), out.conversations.back().ids.end(), seg_token_id);
      out.words += conversation.words >= 0 ? conversation.words : count_words(conversation.messages);
    }
    if (segs != static_cast<std::int64_t>(sample.targets.size())) {
      const auto what = unit.images.empty() ? fs::path(reader.source()) : unit.folder / unit.images.front();
      throw BrokenSample(
          {what.string(), item.name, fmt::format("{} [SEG] in its texts for {} masks", segs, sample.targets.size())});
    }
    const auto first_mask = static_cast<std::int64_t>(built.masks.size());
    for (const auto target : sample.targets) out.targets.push_back(first_mask + target);
    if (made.ignore_mask >= 0) out.ignore_mask = first_mask + made.ignore_mask;
    samples.push_back(std::move(out));
  }
  std::move(made.masks.begin(), made.masks.end(), std::back_inserter(built.masks));
  std::move(samples.begin(), samples.end(), std::back_inserter(built.samples));
}

BuiltUnit UnitBuilder::build(const WorkUnit& unit) const {
  BuiltUnit built;
  const auto source = [&](const ItemOfImage& at) { return (*readers)[static_cast<std::size_t>(at.reader)]->source(); };
  const auto skip = [&](const ItemOfImage& at, Problem problem) {
    built.skipped.push_back({std::move(problem), source(at)});
  };
  try {
    const bool oriented = encoding.recipe == text::Recipe::lisa;
    for (const auto& image : unit.images) built.images.push_back(read_image(unit.folder, image, oriented));
  } catch (const BrokenSample& broken) {
    for (const auto& at : unit.items) skip(at, broken.problem());
    return built;
  }
  for (const auto& at : unit.items) {
    try {
      add_item(at, unit, built);
    } catch (const BrokenSample& broken) {
      skip(at, broken.problem());
    } catch (const RequestError& error) {
      // The message says what in the item does not fit; where it is, is for us to say.
      const auto& item = (*readers)[static_cast<std::size_t>(at.reader)]->items()[static_cast<std::size_t>(at.item)];
      skip(at,
           {unit.images.empty() ? source(at) : (unit.folder / unit.images.front()).string(), item.name, error.what()});
    }
  }
  return built;
}

namespace {

std::int32_t append_image(ShardData& shard, const BuiltImage& image) {
  const auto row = static_cast<std::int32_t>(shard.images.height.size());
  const std::span bytes(reinterpret_cast<const std::uint8_t*>(image.bytes.data()), image.bytes.size());
  shard.images.bytes.add(bytes);
  shard.images.height.push_back(static_cast<std::int32_t>(image.size.height));
  shard.images.width.push_back(static_cast<std::int32_t>(image.size.width));
  shard.images.name.add(image.name);
  shard.images.digest.push_back(static_cast<std::int64_t>(xxh3_64(bytes.data(), bytes.size())));
  return row;
}

void append_skipped(ShardData& shard, const BuiltUnit& unit) {
  for (const auto& item : unit.skipped) {
    shard.skipped.add(nlohmann::json{
        {"source", item.source}, {"file", item.problem.file}, {"where", item.problem.where}, {"why", item.problem.why}}
                          .dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
  }
}

std::string_view mask_counts(const ShardData& shard, std::int64_t mask) {
  const auto& counts = shard.masks.counts;
  const auto begin = counts.offsets[static_cast<std::size_t>(mask)];
  const auto end = counts.offsets[static_cast<std::size_t>(mask) + 1];
  return {reinterpret_cast<const char*>(counts.values.data()) + begin, static_cast<std::size_t>(end - begin)};
}

void append_sample(ShardData& shard, const BuiltSample& sample, std::int64_t first_mask) {
  auto& samples = shard.samples;
  samples.source.push_back(sample.reader);
  samples.item.push_back(sample.item);
  samples.draw.push_back(sample.draw);
  samples.is_sentence.push_back(sample.is_sentence);
  samples.words.push_back(static_cast<std::int32_t>(sample.words));
  samples.ignore_mask.push_back(sample.ignore_mask < 0 ? -1 : first_mask + sample.ignore_mask);
  samples.choices.add(sample.choices);
  SampleDigest digest;
  for (const auto& conversation : sample.conversations) {
    digest.add(conversation.ids);
    digest.add(conversation.labels);
    shard.conversations.ids.add(conversation.ids);
    shard.conversations.labels.add(conversation.labels);
    shard.conversations.text.add(conversation.text);
    shard.conversations.question.add(conversation.question);
  }
  for (const auto target : sample.targets) {
    shard.target_mask.push_back(first_mask + target);
    digest.add(mask_counts(shard, shard.target_mask.back()));
  }
  if (samples.ignore_mask.back() >= 0) digest.add(mask_counts(shard, samples.ignore_mask.back()));
  samples.digest.push_back(digest.value());
  samples.conversation_offsets.push_back(shard.conversations.ids.rows());
  samples.target_offsets.push_back(static_cast<std::int64_t>(shard.target_mask.size()));
}

}  // namespace

void append_unit(ShardData& shard, ImageRows& rows, const BuiltUnit& unit) {
  append_skipped(shard, unit);
  if (unit.samples.empty()) return;
  std::vector<std::int32_t> images;
  for (const auto& image : unit.images) {
    // Files of one name in two folders are told apart by their bytes.
    const auto key = fmt::format("{}\n{:016x}", image.name, xxh3_64(image.bytes.data(), image.bytes.size()));
    const auto [at, fresh] = rows.try_emplace(key, 0);
    if (fresh) at->second = append_image(shard, image);
    images.push_back(at->second);
  }
  const auto first_mask = static_cast<std::int64_t>(shard.masks.height.size());
  for (const auto& mask : unit.masks) {
    const auto counts = image::rle_to_string(mask);
    shard.masks.counts.add(std::span(reinterpret_cast<const std::uint8_t*>(counts.data()), counts.size()));
    shard.masks.height.push_back(static_cast<std::int32_t>(mask.height));
    shard.masks.width.push_back(static_cast<std::int32_t>(mask.width));
  }
  for (const auto& sample : unit.samples) {
    shard.samples.image.push_back(images.empty() ? -1 : images.front());
    shard.samples.images.add(images);
    append_sample(shard, sample, first_mask);
  }
}

}  // namespace tessera::data
