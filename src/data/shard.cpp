#include "tessera/data/shard.hpp"

#include <fmt/format.h>

#include <functional>
#include <numeric>

#include "data/shard_names.hpp"
#include "tessera/core/hash.hpp"
#include "tessera/io/hdf5.hpp"
#include "tessera/text/image_tokens.hpp"

namespace tessera::data {
namespace {

template <class T>
void put(io::H5File& file, const std::string& name, std::span<const T> values) {
  auto dataset = file.create_dataset(name, h5_type<T>(), {.contiguous = static_cast<std::int64_t>(values.size())});
  dataset.append(values);
  dataset.attributes().set(kChecksum, checksum_of(values.data(), values.size_bytes()));
}

template <class T>
void put(io::H5File& file, const std::string& name, const std::vector<T>& values) {
  put(file, name, std::span<const T>(values));
}

template <class T>
void put(io::H5File& file, const std::string& name, const Ragged<T>& rows) {
  put(file, name + "/values", rows.values);
  put(file, name + "/offsets", rows.offsets);
}

void put(io::H5File& file, const std::string& name, const RaggedText& rows) {
  put(file, name + "/values", std::span(reinterpret_cast<const std::uint8_t*>(rows.values.data()), rows.values.size()));
  put(file, name + "/offsets", rows.offsets);
}

void put_header(io::H5File& file, const ShardHeader& header) {
  auto root = file.attributes();
  root.set("format", std::string_view(kFormatName));
  root.set("format_major", std::int64_t{kFormatMajor});
  root.set("format_minor", std::int64_t{kFormatMinor});
  root.set("split", header.split);
  root.set("tokenizer_hash", header.tokenizer_hash);
  root.set("template", header.conversation_template);
  root.set("recipe", header.recipe);
  root.set("seg_token_id", header.seg_token_id);
  root.set("im_start_id", header.im_start_id);
  root.set("im_end_id", header.im_end_id);
  root.set("pad_id", header.pad_id);
  root.set("bos_id", header.bos_id);
  root.set("eos_id", header.eos_id);
  root.set("image_token_id", text::kImageId);
  root.set("ignore_label", text::kIgnoreId);
  root.set("use_mm_start_end", std::int64_t{header.use_mm_start_end ? 1 : 0});
  root.set("seed", header.seed);
  root.set("made_by", header.made_by);
  root.set("plan", header.plan);
}

void put_features(io::H5File& file, const FeatureTable& table) {
  const auto group = kFeatures + table.what.name;
  put(file, group + "/digest", table.digest);
  put(file, group + "/values", table.values);
  auto about = file.attributes(group);
  about.set("tower", static_cast<std::int64_t>(table.what.tower));
  about.set("input", table.what.input);
  about.set("dims", static_cast<std::int64_t>(table.what.shape.size()));
  for (std::size_t d = 0; d < table.what.shape.size(); ++d) about.set(fmt::format("dim_{}", d), table.what.shape[d]);
}

/// Then samples/image says it all.
bool one_image_each(const ShardData& data) {
  const auto& offsets = data.samples.images.offsets;
  for (std::size_t i = 0; i + 1 < offsets.size(); ++i) {
    if (offsets[i + 1] - offsets[i] != 1) return false;
  }
  return true;
}

}  // namespace

std::int64_t TowerFeatures::numel() const noexcept {
  return std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>());
}

void write_shard(const std::filesystem::path& path, const ShardHeader& header, const ShardData& data) {
  auto file = io::H5File::create(path, /*sealed=*/true);
  put_header(file, header);
  // Small tables first and the image bytes last, so that opening a shard reads its beginning.
  put(file, "images/height", data.images.height);
  put(file, "images/width", data.images.width);
  put(file, "images/name", data.images.name);
  put(file, "images/digest", data.images.digest);
  put(file, "sources/name", data.sources.name);
  put(file, "sources/family", data.sources.family);
  put(file, "samples/image", data.samples.image);
  if (!one_image_each(data)) put(file, "samples/images", data.samples.images);
  if (!data.samples.words.empty()) put(file, "samples/words", data.samples.words);
  if (!data.samples.digest.empty()) put(file, "samples/digest", data.samples.digest);
  put(file, "samples/source", data.samples.source);
  put(file, "samples/item", data.samples.item);
  put(file, "samples/draw", data.samples.draw);
  put(file, "samples/is_sentence", data.samples.is_sentence);
  put(file, "samples/conversation_offsets", data.samples.conversation_offsets);
  put(file, "samples/target_offsets", data.samples.target_offsets);
  put(file, "samples/ignore_mask", data.samples.ignore_mask);
  put(file, "samples/choices", data.samples.choices);
  put(file, "targets/mask", data.target_mask);
  put(file, "masks/height", data.masks.height);
  put(file, "masks/width", data.masks.width);
  put(file, "conversations/ids", data.conversations.ids);
  put(file, "conversations/labels", data.conversations.labels);
  put(file, "conversations/text", data.conversations.text);
  put(file, "conversations/question", data.conversations.question);
  put(file, "masks/counts", data.masks.counts);
  put(file, "skipped", data.skipped);
  put(file, "images/bytes", data.images.bytes);
  for (const auto& table : data.features) put_features(file, table);
  file.commit();
}

}  // namespace tessera::data
