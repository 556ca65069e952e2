#include "tessera/data/collate.hpp"

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>

#include <algorithm>
#include <optional>
#include <span>

#include "data/pictures.hpp"
#include "data/sides.hpp"
#include "tessera/core/error.hpp"
#include "tessera/core/random.hpp"
#include "tessera/text/image_tokens.hpp"

namespace tessera::data {
namespace {

constexpr float kIgnoredPixel = 255.0F;

/// Conversations of all samples, one after another.
std::vector<const StoredConversation*> flatten(const std::vector<StoredSample>& samples,
                                               std::vector<std::int64_t>& offset) {
  std::vector<const StoredConversation*> rows;
  offset = {0};
  for (const auto& sample : samples) {
    for (const auto& conversation : sample.conversations) rows.push_back(&conversation);
    offset.push_back(static_cast<std::int64_t>(rows.size()));
  }
  return rows;
}

/// Fills input_ids, labels and attention_mask of a LisaBatch or a LlavaBatch; counts tokens, not yet labels.
template <class Batch>
void fill_tokens(Batch& batch, const std::vector<const StoredConversation*>& rows, std::int64_t width,
                 std::int64_t pad_id, CollateReport& report) {
  const auto count = static_cast<std::int64_t>(rows.size());
  batch.input_ids = at::full({count, width}, pad_id, at::kLong);
  batch.labels = at::full({count, width}, text::kIgnoreId, at::kLong);
  batch.attention_mask = at::full({count, width}, 0, at::kBool);
  auto* ids = batch.input_ids.template mutable_data_ptr<std::int64_t>();
  auto* labels = batch.labels.template mutable_data_ptr<std::int64_t>();
  auto* attended = batch.attention_mask.template mutable_data_ptr<bool>();
  for (std::int64_t r = 0; r < count; ++r) {
    const auto& row = *rows[static_cast<std::size_t>(r)];
    const auto length = std::min<std::int64_t>(static_cast<std::int64_t>(row.ids.size()), width);
    std::copy_n(row.ids.begin(), length, ids + r * width);
    std::copy_n(row.labels.begin(), length, labels + r * width);
    std::fill_n(attended + r * width, length, true);
    report.tokens += length;
    report.padding += width - length;
    if (static_cast<std::int64_t>(row.ids.size()) > width) ++report.cut_conversations;
  }
}

/// Supervised targets of a row. The first label is nobody's target: the loss compares position p with label p + 1.
std::int64_t count_labels(std::span<const std::int64_t> labels) {
  return std::count_if(labels.begin() + std::min<std::ptrdiff_t>(1, std::ssize(labels)), labels.end(),
                       [](std::int64_t label) { return label != text::kIgnoreId; });
}

/// Labels that lie beyond position `limit` once pictures of `positions` each stand in the places of their tokens.
void ignore_cut_labels(std::span<const std::int64_t> ids, std::span<std::int64_t> labels,
                       std::span<const std::int64_t> positions, std::int64_t limit) {
  std::int64_t position = 0;
  std::size_t picture = 0;
  for (std::size_t p = 0; p < ids.size(); ++p) {
    if (position >= limit) labels[p] = text::kIgnoreId;
    position += ids[p] == text::kImageId && picture < positions.size() ? positions[picture++] : 1;
  }
}

/// Positions of every picture of the batch, in order.
std::vector<std::int64_t> positions_of(const models::LlavaBatch& batch, const InputSpec& spec) {
  const auto whole = batch.images.defined() ? batch.images.size(0) : batch.image_features.size(0);
  if (!spec.tiles) return std::vector<std::int64_t>(static_cast<std::size_t>(whole), spec.image_patches);
  std::vector<std::int64_t> positions;
  for (const auto& picture : batch.pictures) positions.push_back(spec.tiles->positions(picture));
  return positions;
}

std::span<std::int64_t> row_of(const at::Tensor& values, std::int64_t row) {
  const auto width = values.size(1);
  return {values.mutable_data_ptr<std::int64_t>() + row * width, static_cast<std::size_t>(width)};
}

/// A text that is cut before its image has nothing to learn from.
void check_images_stay(const std::vector<StoredSample>& samples, std::int64_t width, const InputSpec& spec) {
  for (const auto& sample : samples) {
    for (const auto& conversation : sample.conversations) {
      const auto at = std::find(conversation.ids.begin(), conversation.ids.end(), text::kImageId);
      if (at == conversation.ids.end() || at - conversation.ids.begin() < width) continue;
      throw RequestError("{}: --model_max_length {} cuts off its image, of {} positions behind {} tokens of text",
                         sample.where, spec.model_max_length, spec.image_patches, at - conversation.ids.begin());
    }
  }
}

/// Which targets of the sample stay when its conversations are cut to `width` tokens: one flag per target.
std::vector<bool> kept_targets(const StoredSample& sample, std::int64_t seg_id, std::int64_t width) {
  std::vector<bool> kept;
  for (const auto& conversation : sample.conversations) {
    for (std::size_t p = 0; p < conversation.ids.size(); ++p) {
      if (conversation.ids[p] == seg_id) kept.push_back(static_cast<std::int64_t>(p) < width);
    }
  }
  if (kept.size() != sample.targets.size()) {
    throw RunError("{}: {} [SEG] tokens in its conversations, {} masks", sample.where, kept.size(),
                   sample.targets.size());
  }
  return kept;
}

/// Writes the mask's pixels, row-major; runs go down the columns.
void draw(const image::Rle& rle, float value, float* pixels) {
  std::int64_t x = 0;
  std::int64_t y = 0;
  bool inside = false;
  for (const auto run : rle.counts) {
    std::int64_t left = run;
    while (left > 0) {
      const auto down = std::min(left, rle.height - y);  // in this column
      if (inside) {
        auto* pixel = pixels + y * rle.width + x;
        for (std::int64_t i = 0; i < down; ++i, pixel += rle.width) *pixel = value;
      }
      left -= down;
      y += down;
      if (y == rle.height) y = 0, ++x;
    }
    inside = !inside;
  }
}

/// The same of the augmented mask.
void draw(const image::Rle& rle, float value, const image::Augmentation& what, float* pixels) {
  const auto moved = image::augment(image::rle_decode(rle), what);
  for (std::size_t p = 0; p < moved.data.size(); ++p) {
    if (moved.data[p] != 0) pixels[p] = value;
  }
}

/// Whether the crop leaves nothing of a target that has something to leave.
bool loses_a_target(const StoredSample& sample, const image::Augmentation& what) {
  return std::any_of(sample.targets.begin(), sample.targets.end(), [&](const image::Rle& target) {
    return image::rle_area(target) > 0 && image::augment(image::rle_decode(target), what).area() == 0;
  });
}

/// What is done to a training sample; nothing where the settings ask for nothing.
std::optional<image::Augmentation> augmentation_of(const StoredSample& sample, std::uint64_t key,
                                                   const InputSpec& spec) {
  if (!spec.augment.any() || !sample.has_image()) return {};
  const auto drawn = [&](const image::AugmentConfig& config) {
    RandomSequence random(mix_keys(key, hash_name("augmentation")));
    return image::draw_augmentation(config, sample.size, random, may_flip(sample));
  };
  auto what = drawn(spec.augment);
  if (spec.augment.crop_min_area < 1 && loses_a_target(sample, what)) {
    auto uncropped = spec.augment;
    uncropped.crop_min_area = 1;
    what = drawn(uncropped);  // the same otherwise
  }
  return what;
}

at::Tensor masks_of(const StoredSample& sample, const std::vector<bool>& kept, Purpose purpose,
                    const std::optional<image::Augmentation>& augmentation, CollateReport& report) {
  const auto count = std::count(kept.begin(), kept.end(), true);
  report.dropped_targets += static_cast<std::int64_t>(kept.size()) - count;
  const auto size = augmentation ? augmentation->size : sample.size;
  auto masks = at::empty({count, size.height, size.width}, at::kFloat);
  auto* pixels = masks.mutable_data_ptr<float>();
  // Not at::zeros: its threads, one team for each loader thread, would fight for the cores.
  std::fill_n(pixels, masks.numel(), 0.0F);
  for (std::size_t i = 0; i < kept.size(); ++i) {
    if (!kept[i]) continue;
    if (augmentation) {
      draw(sample.targets[i], 1.0F, *augmentation, pixels);
    } else {
      draw(sample.targets[i], 1.0F, pixels);
    }
    if (purpose == Purpose::evaluation && sample.ignore) draw(*sample.ignore, kIgnoredPixel, pixels);
    pixels += size.height * size.width;
  }
  return masks;
}

}  // namespace

CollateReport& CollateReport::operator+=(const CollateReport& other) {
  tokens += other.tokens;
  label_tokens += other.label_tokens;
  padding += other.padding;
  cut_conversations += other.cut_conversations;
  dropped_targets += other.dropped_targets;
  return *this;
}

models::LisaBatch collate(const std::vector<StoredSample>& samples, const std::vector<std::uint64_t>& keys,
                          const ShardHeader& header, const InputSpec& spec, Purpose purpose, CollateReport& report) {
  models::LisaBatch batch;
  const auto rows = flatten(samples, batch.offset);
  std::int64_t width = 0;
  for (const auto* row : rows) width = std::max(width, static_cast<std::int64_t>(row->ids.size()));
  // The image replaces one token by image_patches of them; what then exceeds the model's length is cut.
  if (purpose == Purpose::training) width = std::min(width, spec.model_max_length - (spec.image_patches - 1));
  check_images_stay(samples, width, spec);
  fill_tokens(batch, rows, width, header.pad_id, report);
  for (std::int64_t r = 0; r < std::ssize(rows); ++r) report.label_tokens += count_labels(row_of(batch.labels, r));
  std::vector<std::optional<image::Augmentation>> augmentations(samples.size());
  for (std::size_t i = 0; i < samples.size(); ++i) {
    if (purpose == Purpose::training) augmentations[i] = augmentation_of(samples[i], keys[i], spec);
    const auto kept = kept_targets(samples[i], header.seg_token_id, width);
    batch.masks.push_back(masks_of(samples[i], kept, purpose, augmentations[i], report));
    for (std::size_t c = 0; c < samples[i].conversations.size(); ++c) batch.sample_keys.push_back(mix_keys(keys[i], c));
  }
  fill_pictures(batch, samples, augmentations, spec);
  return batch;
}

models::LlavaBatch collate_llava(const std::vector<StoredSample>& samples, const std::vector<std::uint64_t>& keys,
                                 const ShardHeader& header, const InputSpec& spec, CollateReport& report) {
  models::LlavaBatch batch;
  std::vector<const StoredConversation*> rows;
  std::int64_t width = 0;
  for (const auto& sample : samples) {
    if (sample.conversations.size() != 1) {
      throw RunError("{}: {} conversations, LLaVA's samples have one", sample.where, sample.conversations.size());
    }
    rows.push_back(&sample.conversations.front());
    width = std::max(width, static_cast<std::int64_t>(rows.back()->ids.size()));
  }
  width = std::min(width, spec.model_max_length);
  fill_tokens(batch, rows, width, header.pad_id, report);
  fill_pictures(batch, samples, keys, spec);
  const auto positions = positions_of(batch, spec);
  std::size_t next = 0;
  for (std::size_t r = 0; r < samples.size(); ++r) {
    const auto labels = row_of(batch.labels, static_cast<std::int64_t>(r));
    const auto pictures = 1 + further_images(samples[r], width).size();  // a blank one where there is none
    ignore_cut_labels(row_of(batch.input_ids, static_cast<std::int64_t>(r)), labels,
                      std::span(positions).subspan(next, pictures), spec.model_max_length);
    next += pictures;
    report.label_tokens += count_labels(labels);
  }
  batch.max_length = spec.model_max_length;
  batch.sample_keys = keys;
  return batch;
}

std::int64_t InputSpec::tiles_of(const SampleSizes& sizes) const {
  const auto pictures = std::max<std::int64_t>(1, sizes.images);
  return tiles && sizes.images > 0 ? pictures * tiles->picture(sizes.size).tiles : pictures;
}

std::int64_t InputSpec::positions_of(const SampleSizes& sizes) const {
  if (sizes.images == 0) return 0;
  return sizes.images * (tiles ? tiles->positions(tiles->picture(sizes.size)) : image_patches);
}

std::int64_t collated_bytes(const SampleSizes& sizes, const InputSpec& spec, bool lisa) {
  constexpr std::int64_t kTokenColumns = 8 + 8 + 1;
  const double larger = std::max(1.0, spec.augment.scale_max);
  const auto pixels =
      static_cast<std::int64_t>(larger * larger * static_cast<double>(sizes.size.height * sizes.size.width));
  const auto pictures =
      picture_bytes(sizes, spec, lisa) + (spec.reads(lisa).bytes ? sizes.image_bytes + 3 * pixels : 0);
  if (!lisa) return pictures + kTokenColumns * sizes.longest_tokens;
  return pictures + static_cast<std::int64_t>(sizeof(float)) * sizes.targets * pixels +
         kTokenColumns * sizes.conversations * sizes.longest_tokens;
}

}  // namespace tessera::data
