#include "tessera/data/collate.hpp"

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>

#include <algorithm>

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

void fill_tokens(models::LisaBatch& batch, const std::vector<const StoredConversation*>& rows, std::int64_t width,
                 std::int64_t pad_id, CollateReport& report) {
  const auto count = static_cast<std::int64_t>(rows.size());
  batch.input_ids = at::full({count, width}, pad_id, at::kLong);
  batch.labels = at::full({count, width}, text::kIgnoreId, at::kLong);
  batch.attention_mask = at::full({count, width}, 0, at::kBool);
  auto* ids = batch.input_ids.mutable_data_ptr<std::int64_t>();
  auto* labels = batch.labels.mutable_data_ptr<std::int64_t>();
  auto* attended = batch.attention_mask.mutable_data_ptr<bool>();
  for (std::int64_t r = 0; r < count; ++r) {
    const auto& row = *rows[static_cast<std::size_t>(r)];
    const auto length = std::min<std::int64_t>(static_cast<std::int64_t>(row.ids.size()), width);
    std::copy_n(row.ids.begin(), length, ids + r * width);
    std::copy_n(row.labels.begin(), length, labels + r * width);
    std::fill_n(attended + r * width, length, true);
    report.tokens += length;
    report.padding += width - length;
    // The first label is nobody's target: the loss compares position p with label p + 1.
    for (std::int64_t p = 1; p < length; ++p) report.label_tokens += labels[r * width + p] != text::kIgnoreId ? 1 : 0;
    if (static_cast<std::int64_t>(row.ids.size()) > width) ++report.cut_conversations;
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
  std::int64_t position = 0;
  bool inside = false;
  for (const auto run : rle.counts) {
    if (inside) {
      for (std::int64_t p = position; p < position + run; ++p)
        pixels[p % rle.height * rle.width + p / rle.height] = value;
    }
    position += run;
    inside = !inside;
  }
}

at::Tensor masks_of(const StoredSample& sample, const std::vector<bool>& kept, Purpose purpose, CollateReport& report) {
  const auto count = std::count(kept.begin(), kept.end(), true);
  report.dropped_targets += static_cast<std::int64_t>(kept.size()) - count;
  auto masks = at::empty({count, sample.size.height, sample.size.width}, at::kFloat);
  auto* pixels = masks.mutable_data_ptr<float>();
  // Not at::zeros: its threads, one team for each loader thread, would fight for the cores.
  std::fill_n(pixels, masks.numel(), 0.0F);
  for (std::size_t i = 0; i < kept.size(); ++i) {
    if (!kept[i]) continue;
    draw(sample.targets[i], 1.0F, pixels);
    if (purpose == Purpose::evaluation && sample.ignore) draw(*sample.ignore, kIgnoredPixel, pixels);
    pixels += sample.size.height * sample.size.width;
  }
  return masks;
}

void fill_pixels(models::LisaBatch& batch, const std::vector<StoredSample>& samples, const InputSpec& spec) {
  const auto count = static_cast<std::int64_t>(samples.size());
  batch.images = at::empty({count, 3, spec.sam_size, spec.sam_size}, at::kFloat);
  batch.images_clip = at::empty({count, 3, spec.clip.crop.height, spec.clip.crop.width}, at::kFloat);
  const auto sam_floats = static_cast<std::size_t>(3 * spec.sam_size * spec.sam_size);
  const auto clip_floats = static_cast<std::size_t>(3 * spec.clip.crop.height * spec.clip.crop.width);
  for (std::size_t i = 0; i < samples.size(); ++i) {
    const auto& sample = samples[i];
    const auto image = image::decode(sample.image, sample.where, {.exif_orientation = true});
    if (image.size() != sample.size) {
      throw RunError("{}: image '{}' is {} x {}, the shard says {} x {}", sample.where, sample.image_name, image.width,
                     image.height, sample.size.width, sample.size.height);
    }
    const auto resized =
        image::sam_pixels(image, spec.sam_size, {batch.images.mutable_data_ptr<float>() + i * sam_floats, sam_floats});
    image::clip_pixels(image, spec.clip, image::Aspect::square,
                       {batch.images_clip.mutable_data_ptr<float>() + i * clip_floats, clip_floats});
    batch.resize.push_back({resized.height, resized.width});
    batch.original.push_back({sample.size.height, sample.size.width});
  }
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
  fill_tokens(batch, rows, width, header.pad_id, report);
  for (std::size_t i = 0; i < samples.size(); ++i) {
    batch.masks.push_back(masks_of(samples[i], kept_targets(samples[i], header.seg_token_id, width), purpose, report));
    for (std::size_t c = 0; c < samples[i].conversations.size(); ++c) batch.sample_keys.push_back(mix_keys(keys[i], c));
  }
  fill_pixels(batch, samples, spec);
  return batch;
}

std::int64_t collated_bytes(const SampleSizes& sizes, const InputSpec& spec) {
  constexpr std::int64_t kFloat = 4;
  constexpr std::int64_t kTokenColumns = 8 + 8 + 1;
  const auto pixels = sizes.size.height * sizes.size.width;
  return sizes.image_bytes +
         3 * kFloat * (spec.sam_size * spec.sam_size + spec.clip.crop.height * spec.clip.crop.width) +
         kFloat * sizes.targets * pixels + 3 * pixels + kTokenColumns * sizes.conversations * sizes.longest_tokens;
}

}  // namespace tessera::data
