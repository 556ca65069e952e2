#include "data/shard_index.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "data/shard_names.hpp"
#include "tessera/core/error.hpp"

namespace tessera::data {
namespace {

constexpr std::int64_t kMostFeatureDims = 4;
constexpr std::int64_t kMostFeatureSide = 1 << 16;

class Tables {
 public:
  explicit Tables(const io::H5File& file) : file_(file) {}

  bool has(const std::string& name) const { return file_.has(name); }

  template <class T>
  std::vector<T> need(const std::string& name, std::size_t rows) const {
    auto values = read<T>(name);
    if (values.size() != rows) fail(name, "{} rows where {} are expected", values.size(), rows);
    return values;
  }

  template <class T>
  std::vector<T> need(const std::string& name) const {
    return read<T>(name);
  }

  /// Empty where the shard has no such table.
  template <class T>
  std::vector<T> maybe(const std::string& name, std::size_t rows) const {
    return file_.has(name) ? need<T>(name, rows) : std::vector<T>();
  }

  /// Offsets from 0 to `end`, never falling.
  std::vector<std::int64_t> offsets(const std::string& name, std::size_t rows, std::int64_t end) const {
    auto values = need<std::int64_t>(name, rows + 1);
    if (values.front() != 0 || values.back() != end || !std::is_sorted(values.begin(), values.end())) {
      fail(name, "offsets must rise from 0 to {}", end);
    }
    return values;
  }

  std::vector<std::int64_t> ragged_offsets(const std::string& name, std::size_t rows) const {
    return offsets(name + "/offsets", rows, file_.dataset(name + "/values").size());
  }

  std::vector<std::int64_t> maybe_ragged_offsets(const std::string& name, std::size_t rows) const {
    return file_.has(name) ? ragged_offsets(name, rows) : std::vector<std::int64_t>();
  }

  std::vector<std::string> texts(const std::string& name) const {
    const auto bytes = read<std::uint8_t>(name + "/values");
    const auto ends = read<std::int64_t>(name + "/offsets");
    if (ends.empty()) fail(name, "offsets are empty");
    offsets(name + "/offsets", ends.size() - 1, static_cast<std::int64_t>(bytes.size()));
    std::vector<std::string> rows;
    for (std::size_t i = 0; i + 1 < ends.size(); ++i)
      rows.emplace_back(bytes.begin() + ends[i], bytes.begin() + ends[i + 1]);
    return rows;
  }

  template <class T>
  void in_range(const std::string& name, const std::vector<T>& rows, std::size_t bound, T least = 0) const {
    for (std::size_t i = 0; i < rows.size(); ++i) {
      if (rows[i] < least || rows[i] >= static_cast<T>(bound)) fail(name, "row {} is {}, of {}", i, rows[i], bound);
    }
  }

  template <class... Args>
  [[noreturn]] void fail(const std::string& name, fmt::format_string<Args...> why, Args&&... args) const {
    throw RequestError("shard '{}': {}: {}; datasets/FORMAT.md says what is expected", file_.path().string(), name,
                       fmt::format(why, std::forward<Args>(args)...));
  }

 private:
  template <class T>
  std::vector<T> read(const std::string& name) const {
    const auto dataset = file_.dataset(name, h5_type<T>());
    auto values = dataset.template read_all<T>();
    const auto attributes = dataset.attributes();
    if (attributes.has(kChecksum) &&
        checksum_of(values.data(), values.size() * sizeof(T)) != attributes.integer(kChecksum)) {
      fail(name, "its values are not those that were written; prepare this shard again");
    }
    return values;
  }
  const io::H5File& file_;
};

ShardHeader read_header(const io::H5File& file) {
  const auto root = file.attributes();
  if (!root.has("format") || root.text("format") != kFormatName) {
    throw RequestError("'{}' is no shard: the root attribute 'format' is not '{}'", file.path().string(), kFormatName);
  }
  if (const auto major = root.integer("format_major"); major > kFormatMajor || major < 1) {
    throw RequestError(
        "shard '{}' has format version {}.{}, this program reads up to {}.x; prepare it again or use a newer program",
        file.path().string(), major, root.integer("format_minor"), kFormatMajor);
  }
  ShardHeader header;
  header.split = root.text("split");
  header.tokenizer_hash = root.text("tokenizer_hash");
  header.conversation_template = root.text("template");
  if (root.has("recipe")) header.recipe = root.text("recipe");
  header.seg_token_id = root.integer("seg_token_id");
  header.im_start_id = root.integer("im_start_id");
  header.im_end_id = root.integer("im_end_id");
  header.pad_id = root.integer("pad_id");
  header.bos_id = root.integer("bos_id");
  header.eos_id = root.integer("eos_id");
  header.use_mm_start_end = root.integer("use_mm_start_end") != 0;
  header.seed = root.has("seed") ? root.integer("seed") : 0;
  header.made_by = root.has("made_by") ? root.text("made_by") : "";
  header.plan = root.has("plan") ? root.text("plan") : "";
  return header;
}

/// Returns the number of samples.
std::size_t read_sample_images(const Tables& tables, ShardIndex& index) {
  const auto first = tables.need<std::int32_t>("samples/image");
  tables.in_range("samples/image", first, index.image_height.size(), std::int32_t{-1});
  if (tables.has("samples/images")) {
    index.sample_images = tables.ragged_offsets("samples/images", first.size());
    index.sample_image_row = tables.need<std::int32_t>("samples/images/values");
    tables.in_range("samples/images/values", index.sample_image_row, index.image_height.size());
  } else {
    index.sample_images.push_back(0);
    for (const auto image : first) {
      if (image >= 0) index.sample_image_row.push_back(image);
      index.sample_images.push_back(static_cast<std::int64_t>(index.sample_image_row.size()));
    }
  }
  for (std::size_t i = 0; i < first.size(); ++i) {
    if (index.first_image(i) != first[i]) tables.fail("samples/images", "sample {} begins with another image", i);
  }
  return first.size();
}

void read_samples(const Tables& tables, ShardIndex& index, std::size_t conversations) {
  const auto samples = read_sample_images(tables, index);
  index.sample_words = tables.maybe<std::int32_t>("samples/words", samples);
  index.sample_digest = tables.maybe<std::int64_t>("samples/digest", samples);
  index.sample_source = tables.need<std::int32_t>("samples/source", samples);
  tables.in_range("samples/source", index.sample_source, index.source_name.size());
  index.sample_conversations =
      tables.offsets("samples/conversation_offsets", samples, static_cast<std::int64_t>(conversations));
  index.sample_targets =
      tables.offsets("samples/target_offsets", samples, static_cast<std::int64_t>(index.target_mask.size()));
  for (std::size_t i = 0; i < samples; ++i) {
    if (index.sample_conversations[i] == index.sample_conversations[i + 1]) {
      tables.fail("samples/conversation_offsets", "sample {} has no conversation", i);
    }
  }
  index.sample_item = tables.maybe<std::int64_t>("samples/item", samples);
  if (index.sample_item.empty()) {
    index.sample_item.resize(samples);
    std::iota(index.sample_item.begin(), index.sample_item.end(), std::int64_t{0});
  }
  index.sample_draw = tables.maybe<std::int32_t>("samples/draw", samples);
  index.sample_draw.resize(samples);
  index.sample_is_sentence = tables.maybe<std::uint8_t>("samples/is_sentence", samples);
  index.sample_is_sentence.resize(samples, kSentenceUnknown);
  index.sample_ignore = tables.maybe<std::int64_t>("samples/ignore_mask", samples);
  index.sample_ignore.resize(samples, -1);
  tables.in_range("samples/ignore_mask", index.sample_ignore, index.mask_height.size(), std::int64_t{-1});
}

/// A mask has the size of the image it belongs to.
void check_mask_sizes(const Tables& tables, const ShardIndex& index) {
  const auto fits = [&](std::size_t sample, std::int64_t mask) {
    if (index.first_image(sample) < 0) return false;
    const auto image = static_cast<std::size_t>(index.first_image(sample));
    const auto row = static_cast<std::size_t>(mask);
    return index.mask_height[row] == index.image_height[image] && index.mask_width[row] == index.image_width[image];
  };
  for (std::size_t i = 0; i < index.sample_source.size(); ++i) {
    for (auto t = index.sample_targets[i]; t < index.sample_targets[i + 1]; ++t) {
      if (!fits(i, index.target_mask[static_cast<std::size_t>(t)])) {
        tables.fail("targets/mask", "target {} has another size than the image of sample {}", t, i);
      }
    }
    if (index.sample_ignore[i] >= 0 && !fits(i, index.sample_ignore[i])) {
      tables.fail("samples/ignore_mask", "sample {}: another size than its image", i);
    }
  }
}

/// What frozen towers made of the images, by group of "features".
std::vector<ShardIndex::Features> read_features(const io::H5File& file, const Tables& tables, std::size_t images) {
  std::vector<ShardIndex::Features> all;
  if (!file.has("features")) return all;
  for (const auto& name : file.names("features")) {
    const auto group = kFeatures + name;
    const auto about = file.attributes(group);
    ShardIndex::Features one;
    one.what.name = name;
    one.what.input = about.text("input");
    one.what.tower = static_cast<std::uint64_t>(about.integer("tower"));
    const auto dims = about.integer("dims");
    if (dims < 1 || dims > kMostFeatureDims) tables.fail(group, "{} dimensions", dims);
    for (std::int64_t d = 0; d < dims; ++d) {
      one.what.shape.push_back(about.integer(fmt::format("dim_{}", d)));
      if (one.what.shape.back() < 1 || one.what.shape.back() > kMostFeatureSide)
        tables.fail(group, "dim_{} is {}", d, one.what.shape.back());
    }
    const auto found = file.dataset(group + "/values", io::H5Type::u16).size();
    if (const auto wanted = static_cast<std::int64_t>(images) * one.what.numel(); found != wanted)
      tables.fail(group + "/values", "{} values where {} are expected", found, wanted);
    one.digest = tables.maybe<std::int64_t>(group + "/digest", images);
    all.push_back(std::move(one));
  }
  return all;
}

}  // namespace

ShardIndex read_shard_index(const io::H5File& file) {
  const Tables tables(file);
  ShardIndex index;
  index.header = read_header(file);

  index.image_height = tables.need<std::int32_t>("images/height");
  const auto images = index.image_height.size();
  index.image_width = tables.need<std::int32_t>("images/width", images);
  index.image_bytes = tables.ragged_offsets("images/bytes", images);
  index.image_name = tables.ragged_offsets("images/name", images);
  index.image_digest = tables.maybe<std::int64_t>("images/digest", images);

  index.source_name = tables.texts("sources/name");
  index.source_family = tables.texts("sources/family");
  if (index.source_name.size() != index.source_family.size()) {
    tables.fail("sources/family", "{} rows for {} names", index.source_family.size(), index.source_name.size());
  }

  index.mask_height = tables.need<std::int32_t>("masks/height");
  const auto masks = index.mask_height.size();
  index.mask_width = tables.need<std::int32_t>("masks/width", masks);
  index.mask_counts = tables.ragged_offsets("masks/counts", masks);
  index.target_mask = tables.need<std::int64_t>("targets/mask");
  tables.in_range("targets/mask", index.target_mask, masks);

  index.conversation_ids = tables.need<std::int64_t>("conversations/ids/offsets");
  if (index.conversation_ids.empty()) tables.fail("conversations/ids/offsets", "empty");
  const auto conversations = index.conversation_ids.size() - 1;
  tables.ragged_offsets("conversations/ids", conversations);
  if (tables.ragged_offsets("conversations/labels", conversations) != index.conversation_ids) {
    tables.fail("conversations/labels", "its rows are not as long as those of conversations/ids");
  }
  index.conversation_text = tables.maybe_ragged_offsets("conversations/text", conversations);
  index.conversation_question = tables.maybe_ragged_offsets("conversations/question", conversations);

  read_samples(tables, index, conversations);
  check_mask_sizes(tables, index);
  index.features = read_features(file, tables, images);
  return index;
}

}  // namespace tessera::data
