#include "data/unit_builder.hpp"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "tessera/core/file.hpp"
#include "tessera/core/hash.hpp"
#include "tessera/text/image_tokens.hpp"

namespace tessera::data {
namespace {

namespace fs = std::filesystem;

/// Whether the path stays inside the folder it is relative to.
bool stays_inside(const fs::path& relative) {
  if (relative.empty() || relative.is_absolute()) return false;
  return std::none_of(relative.begin(), relative.end(), [](const fs::path& part) { return part == ".."; });
}

/// The image's bytes and size, decoded whole so that damage shows now.
void read_image(const fs::path& dataset_dir, BuiltUnit& built) {
  const fs::path path = dataset_dir / built.image_name;
  if (!stays_inside(built.image_name)) throw BrokenSample({path.string(), "", "the path leaves the data set folder"});
  if (!fs::exists(path)) throw BrokenSample({path.string(), "", "the image is missing"});
  try {
    built.image = read_file(path);
    built.size = image::decode(image::bytes_of(built.image), "image", {.exif_orientation = true}).size();
  } catch (const RequestError& error) {
    throw BrokenSample({path.string(), "", error.what()});
  }
}

std::vector<std::int32_t> narrow(const std::vector<std::int64_t>& ids) {
  return {ids.begin(), ids.end()};
}

}  // namespace

BuiltConversation UnitBuilder::encode(const Conversation& conversation, const std::string& label) const {
  auto options = encoding;
  options.label = label;
  BuiltConversation built;
  built.text = text::build_prompt(*form, conversation.messages);
  const auto encoded = text::encode_conversation(*tokenizer, *form, built.text, options);
  built.ids = narrow(encoded.input_ids);
  built.labels = narrow(encoded.labels);
  built.question = conversation.question;
  return built;
}

void UnitBuilder::add_item(const ItemOfImage& at, BuiltUnit& built) const {
  const auto& reader = *(*readers)[static_cast<std::size_t>(at.reader)];
  const auto& item = reader.items()[static_cast<std::size_t>(at.item)];
  std::vector<Choices> choices;
  for (std::int64_t d = 0; d < draws; ++d) choices.push_back(choices_of(seed, reader.source(), item.name, d));
  auto made = reader.make(at.item, built.size, choices);

  std::vector<BuiltSample> samples;
  for (std::size_t d = 0; d < made.samples.size(); ++d) {
    const auto& sample = made.samples[d];
    BuiltSample out{at.reader, at.item,           static_cast<std::int32_t>(d), sample.is_sentence, {}, {},
                    -1,        choices[d].taken()};
    std::int64_t segs = 0;
    for (const auto& conversation : sample.conversations) {
      out.conversations.push_back(encode(conversation, item.name));
      segs += std::count(out.conversations.back().ids.begin(), out.conversations.back().ids.end(), seg_token_id);
    }
    if (segs != static_cast<std::int64_t>(sample.targets.size())) {
      throw BrokenSample({(dataset_dir / item.image).string(), item.name,
                          fmt::format("{} [SEG] in its texts for {} masks", segs, sample.targets.size())});
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
  built.image_name = unit.image;
  const auto skip = [&](const ItemOfImage& at, Problem problem) {
    built.skipped.push_back({std::move(problem), (*readers)[static_cast<std::size_t>(at.reader)]->source()});
  };
  try {
    read_image(dataset_dir, built);
  } catch (const BrokenSample& broken) {
    for (const auto& at : unit.items) skip(at, broken.problem());
    return built;
  }
  for (const auto& at : unit.items) {
    try {
      add_item(at, built);
    } catch (const BrokenSample& broken) {
      skip(at, broken.problem());
    } catch (const RequestError& error) {
      // The text room names the item; the message says what in it does not fit.
      skip(at, {(dataset_dir / unit.image).string(), "text", error.what()});
    }
  }
  return built;
}

void append_unit(ShardData& shard, const BuiltUnit& unit) {
  for (const auto& item : unit.skipped) {
    shard.skipped.add(nlohmann::json{
        {"source", item.source}, {"file", item.problem.file}, {"where", item.problem.where}, {"why", item.problem.why}}
                          .dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
  }
  if (unit.samples.empty()) return;
  const auto image = static_cast<std::int32_t>(shard.images.height.size());
  const std::span bytes(reinterpret_cast<const std::uint8_t*>(unit.image.data()), unit.image.size());
  shard.images.bytes.add(bytes);
  shard.images.height.push_back(static_cast<std::int32_t>(unit.size.height));
  shard.images.width.push_back(static_cast<std::int32_t>(unit.size.width));
  shard.images.name.add(unit.image_name);
  shard.images.digest.push_back(static_cast<std::int64_t>(xxh3_64(bytes.data(), bytes.size())));

  const auto first_mask = static_cast<std::int64_t>(shard.masks.height.size());
  for (const auto& mask : unit.masks) {
    const auto counts = image::rle_to_string(mask);
    shard.masks.counts.add(std::span(reinterpret_cast<const std::uint8_t*>(counts.data()), counts.size()));
    shard.masks.height.push_back(static_cast<std::int32_t>(mask.height));
    shard.masks.width.push_back(static_cast<std::int32_t>(mask.width));
  }
  auto& samples = shard.samples;
  for (const auto& sample : unit.samples) {
    samples.image.push_back(image);
    samples.source.push_back(sample.reader);
    samples.item.push_back(sample.item);
    samples.draw.push_back(sample.draw);
    samples.is_sentence.push_back(sample.is_sentence);
    samples.ignore_mask.push_back(sample.ignore_mask < 0 ? -1 : first_mask + sample.ignore_mask);
    samples.choices.add(sample.choices);
    for (const auto& conversation : sample.conversations) {
      shard.conversations.ids.add(conversation.ids);
      shard.conversations.labels.add(conversation.labels);
      shard.conversations.text.add(conversation.text);
      shard.conversations.question.add(conversation.question);
    }
    for (const auto target : sample.targets) shard.target_mask.push_back(first_mask + target);
    samples.conversation_offsets.push_back(shard.conversations.ids.rows());
    samples.target_offsets.push_back(static_cast<std::int64_t>(shard.target_mask.size()));
  }
}

}  // namespace tessera::data
