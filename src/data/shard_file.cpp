#include "tessera/data/shard_file.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <mutex>

#include "data/shard_index.hpp"
#include "data/shard_names.hpp"
#include "tessera/core/error.hpp"
#include "tessera/io/hdf5.hpp"

namespace tessera::data {

namespace {

/// Sizes at row i of a ragged table.
std::int64_t length(const std::vector<std::int64_t>& offsets, std::int64_t row) {
  return offsets[static_cast<std::size_t>(row) + 1] - offsets[static_cast<std::size_t>(row)];
}

template <class T>
T at(const std::vector<T>& values, std::int64_t row) {
  return values[static_cast<std::size_t>(row)];
}

}  // namespace

struct ShardFile::Impl {
  explicit Impl(const std::filesystem::path& path)
      : file(io::H5File::open(path)),
        index(read_shard_index(file)),
        image_bytes(file.dataset("images/bytes/values", io::H5Type::u8)),
        image_names(file.dataset("images/name/values", io::H5Type::u8)),
        ids(file.dataset("conversations/ids/values", io::H5Type::i32)),
        labels(file.dataset("conversations/labels/values", io::H5Type::i32)),
        mask_counts(file.dataset("masks/counts/values", io::H5Type::u8)) {
    if (!index.conversation_text.empty()) texts.emplace(file.dataset("conversations/text/values", io::H5Type::u8));
    if (!index.conversation_question.empty()) {
      questions.emplace(file.dataset("conversations/question/values", io::H5Type::u8));
    }
    for (const auto& one : index.features)
      features.push_back(file.dataset(kFeatures + one.what.name + "/values", io::H5Type::u16));
  }

  io::H5File file;
  ShardIndex index;
  io::H5Dataset image_bytes, image_names, ids, labels, mask_counts;
  std::optional<io::H5Dataset> texts, questions;
  std::vector<io::H5Dataset> features;  ///< as index.features
  std::mutex mutex;                     ///< one thread at a time may use a dataset that HDF5 reads

  template <class T>
  void read(const io::H5Dataset& values, std::int64_t begin, std::int64_t count, T* out) {
    if (values.reads_aside()) {
      values.read(begin, count, out);
    } else {
      const std::lock_guard lock(mutex);
      values.read(begin, count, out);
    }
  }

  template <class T>
  std::vector<T> row(const io::H5Dataset& values, const std::vector<std::int64_t>& offsets, std::int64_t i) {
    std::vector<T> result(static_cast<std::size_t>(length(offsets, i)));
    read(values, at(offsets, i), static_cast<std::int64_t>(result.size()), result.data());
    return result;
  }

  std::string text_row(const io::H5Dataset& values, const std::vector<std::int64_t>& offsets, std::int64_t i) {
    const auto bytes = row<std::uint8_t>(values, offsets, i);
    return {bytes.begin(), bytes.end()};
  }

  StoredImage image(std::int64_t i, const std::string& where, const ReadImages& what) {
    StoredImage stored{
        text_row(image_names, index.image_name, i), {}, {at(index.image_height, i), at(index.image_width, i)}};
    if (what.bytes) {
      stored.bytes = row<std::uint8_t>(image_bytes, index.image_bytes, i);
      expect_digest(index.image_digest, i, stored.bytes.data(), stored.bytes.size(), where, stored.name);
    }
    for (std::size_t f = 0; f < features.size(); ++f) {
      const auto& name = index.features[f].what.name;
      if (what.clip && name == "clip") stored.features.clip = features_of(f, i, where, stored.name);
      if (what.sam && name == "sam") stored.features.sam = features_of(f, i, where, stored.name);
    }
    return stored;
  }

  std::shared_ptr<const std::uint16_t[]> features_of(std::size_t table, std::int64_t i, const std::string& where,
                                                     const std::string& name) {
    const auto& about = index.features[table];
    const auto count = about.what.numel();
    auto values = std::make_shared_for_overwrite<std::uint16_t[]>(static_cast<std::size_t>(count));
    read(features[table], i * count, count, values.get());
    expect_digest(about.digest, i, values.get(), static_cast<std::size_t>(count) * 2, where, name);
    return values;
  }

  static void expect_digest(const std::vector<std::int64_t>& digests, std::int64_t i, const void* bytes,
                            std::size_t size, const std::string& where, const std::string& name) {
    if (digests.empty() || checksum_of(bytes, size) == at(digests, i)) return;
    throw RunError("{}: the bytes of image '{}' are not those that were written; prepare this shard again", where,
                   name);
  }

  image::Rle mask(std::int64_t i, const std::string& where, SampleDigest& digest) {
    const auto counts = text_row(mask_counts, index.mask_counts, i);
    digest.add(counts);
    return image::rle_from_string(counts, {at(index.mask_height, i), at(index.mask_width, i)}, where);
  }
};

ShardFile::ShardFile(const std::filesystem::path& path) : impl_(std::make_unique<Impl>(path)) {}
ShardFile::ShardFile(ShardFile&&) noexcept = default;
ShardFile& ShardFile::operator=(ShardFile&&) noexcept = default;
ShardFile::~ShardFile() = default;

const std::filesystem::path& ShardFile::path() const noexcept {
  return impl_->file.path();
}
const ShardHeader& ShardFile::header() const noexcept {
  return impl_->index.header;
}
std::int64_t ShardFile::samples() const noexcept {
  return static_cast<std::int64_t>(impl_->index.sample_source.size());
}
std::int64_t ShardFile::images() const noexcept {
  return static_cast<std::int64_t>(impl_->index.image_height.size());
}
std::int64_t ShardFile::masks() const noexcept {
  return static_cast<std::int64_t>(impl_->index.mask_height.size());
}
const std::vector<std::string>& ShardFile::source_names() const noexcept {
  return impl_->index.source_name;
}
const std::vector<std::string>& ShardFile::source_families() const noexcept {
  return impl_->index.source_family;
}
std::int32_t ShardFile::source_of(std::int64_t sample) const {
  return impl_->index.sample_source.at(static_cast<std::size_t>(sample));
}
std::int64_t ShardFile::item_of(std::int64_t sample) const {
  return impl_->index.sample_item.at(static_cast<std::size_t>(sample));
}
std::vector<std::int32_t> ShardFile::images_of(std::int64_t sample) const {
  const auto& index = impl_->index;
  const auto row = static_cast<std::size_t>(sample);
  const auto* all = index.sample_image_row.data();
  return {all + index.sample_images.at(row), all + index.sample_images.at(row + 1)};
}

SampleSizes ShardFile::sizes_of(std::int64_t sample) const {
  const auto& index = impl_->index;
  SampleSizes sizes;
  for (const auto image : images_of(sample)) {
    if (sizes.images++ == 0) sizes.size = {at(index.image_height, image), at(index.image_width, image)};
    sizes.image_bytes += length(index.image_bytes, image);
  }
  const auto first = at(index.sample_conversations, sample);
  const auto last = at(index.sample_conversations, sample + 1);
  sizes.conversations = last - first;
  for (auto c = first; c < last; ++c) {
    const auto tokens = length(index.conversation_ids, c);
    sizes.tokens += tokens;
    sizes.longest_tokens = std::max(sizes.longest_tokens, tokens);
  }
  sizes.targets = length(index.sample_targets, sample);
  sizes.words = index.sample_words.empty() ? sizes.tokens : at(index.sample_words, sample);
  return sizes;
}

image::Size ShardFile::image_size(std::int64_t image) const {
  const auto row = static_cast<std::size_t>(image);
  return {impl_->index.image_height.at(row), impl_->index.image_width.at(row)};
}

std::int64_t ShardFile::image_bytes(std::int64_t image) const {
  return length(impl_->index.image_bytes, image);
}

std::vector<std::int64_t> ShardFile::token_lengths() const {
  const auto& offsets = impl_->index.conversation_ids;
  std::vector<std::int64_t> lengths;
  for (std::size_t i = 0; i + 1 < offsets.size(); ++i) lengths.push_back(offsets[i + 1] - offsets[i]);
  return lengths;
}

std::vector<std::string> ShardFile::skipped() const {
  std::vector<std::string> reports;
  if (!impl_->file.has("skipped")) return reports;
  const auto values = impl_->file.dataset("skipped/values", io::H5Type::u8).read_all<std::uint8_t>();
  const auto offsets = impl_->file.dataset("skipped/offsets", io::H5Type::i64).read_all<std::int64_t>();
  for (std::size_t i = 0; i + 1 < offsets.size(); ++i) {
    if (offsets[i] < 0 || offsets[i + 1] < offsets[i] || offsets[i + 1] > static_cast<std::int64_t>(values.size())) {
      throw RequestError("shard '{}': skipped: offsets do not rise", path().string());
    }
    reports.emplace_back(values.begin() + offsets[i], values.begin() + offsets[i + 1]);
  }
  return reports;
}

std::vector<TowerFeatures> ShardFile::features() const {
  std::vector<TowerFeatures> all;
  for (const auto& one : impl_->index.features) all.push_back(one.what);
  return all;
}

StoredSample ShardFile::read(std::int64_t sample, const ReadImages& what) const {
  auto& impl = *impl_;
  const auto& index = impl.index;
  StoredSample result;
  result.where = fmt::format("shard '{}' sample {}", path().string(), sample);
  for (const auto row : images_of(sample)) {
    auto image = impl.image(row, result.where, what);
    if (result.has_image()) {
      result.more_images.push_back(std::move(image));
    } else {
      result.image_name = std::move(image.name);
      result.image = std::move(image.bytes);
      result.size = image.size;
      result.features = std::move(image.features);
    }
  }
  result.source = at(index.sample_source, sample);
  result.item = at(index.sample_item, sample);
  result.draw = at(index.sample_draw, sample);
  result.is_sentence = at(index.sample_is_sentence, sample);
  SampleDigest digest;
  for (auto c = at(index.sample_conversations, sample); c < at(index.sample_conversations, sample + 1); ++c) {
    StoredConversation conversation;
    conversation.ids = impl.row<std::int32_t>(impl.ids, index.conversation_ids, c);
    conversation.labels = impl.row<std::int32_t>(impl.labels, index.conversation_ids, c);
    digest.add(conversation.ids);
    digest.add(conversation.labels);
    if (impl.texts) conversation.text = impl.text_row(*impl.texts, index.conversation_text, c);
    if (impl.questions) conversation.question = impl.text_row(*impl.questions, index.conversation_question, c);
    result.conversations.push_back(std::move(conversation));
  }
  for (auto t = at(index.sample_targets, sample); t < at(index.sample_targets, sample + 1); ++t) {
    result.targets.push_back(impl.mask(at(index.target_mask, t), result.where, digest));
  }
  if (const auto ignore = at(index.sample_ignore, sample); ignore >= 0)
    result.ignore = impl.mask(ignore, result.where, digest);
  if (!index.sample_digest.empty() && digest.value() != at(index.sample_digest, sample)) {
    throw RunError("{}: its tokens or masks are not those that were written; prepare this shard again", result.where);
  }
  return result;
}

}  // namespace tessera::data
