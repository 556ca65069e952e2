#include "data/pictures.hpp"

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <functional>
#include <iterator>
#include <numeric>
#include <span>

#include "data/sides.hpp"
#include "tessera/core/error.hpp"
#include "tessera/core/random.hpp"
#include "tessera/image/processor.hpp"
#include "tessera/text/image_tokens.hpp"

namespace tessera::data {
namespace {

std::int64_t numel(const std::vector<std::int64_t>& shape) {
  return std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>());
}

/// One tower's input for a batch, filled image by image.
struct Pixels {
  at::Tensor all;
  std::size_t floats = 0;  ///< of one image
  Pixels(std::int64_t images, image::Size size) {
    all = at::empty({images, 3, size.height, size.width}, at::kFloat);
    floats = static_cast<std::size_t>(3 * size.height * size.width);
  }
  std::span<float> of(std::size_t image) { return {all.mutable_data_ptr<float>() + image * floats, floats}; }
};

/// Features of a batch, [images, shape] in bf16.
struct Features {
  at::Tensor all;
  std::size_t count = 0;  ///< of one image
  Features(std::int64_t images, const std::vector<std::int64_t>& shape) {
    std::vector<std::int64_t> sizes{images};
    sizes.insert(sizes.end(), shape.begin(), shape.end());
    all = at::empty(sizes, at::kBFloat16);
    count = static_cast<std::size_t>(numel(shape));
  }
  /// Null: zeros, of a picture that no row uses.
  void set(std::size_t image, const std::uint16_t* values) {
    auto* to = reinterpret_cast<std::uint16_t*>(all.mutable_data_ptr<at::BFloat16>()) + image * count;
    values == nullptr ? std::fill_n(to, count, std::uint16_t{0}) : std::copy_n(values, count, to);
  }
};

const std::uint16_t* present(const std::shared_ptr<const std::uint16_t[]>& values, const StoredSample& sample,
                             const char* tower) {
  if (!values) throw RunError("{}: its shard has no features of {}", sample.where, tower);
  return values.get();
}

image::Image decoded(const StoredSample& sample) {
  auto image = image::decode(sample.image, sample.where, {.exif_orientation = true});
  if (image.size() == sample.size) return image;
  throw RunError("{}: image '{}' is {} x {}, the shard says {} x {}", sample.where, sample.image_name,
                 image.size().width, image.size().height, sample.size.width, sample.size.height);
}

}  // namespace

void fill_pictures(models::LisaBatch& batch, const std::vector<StoredSample>& samples,
                   const std::vector<std::optional<image::Augmentation>>& augmentations, const InputSpec& spec) {
  const auto count = static_cast<std::int64_t>(samples.size());
  std::optional<Pixels> sam, clip;
  std::optional<Features> sam_features, clip_features;
  if (spec.stored_sam.empty()) {
    sam.emplace(count, image::Size{spec.sam_size, spec.sam_size});
  } else {
    sam_features.emplace(count, spec.stored_sam);
  }
  if (spec.stored_clip.empty()) {
    clip.emplace(count, spec.clip.crop);
  } else {
    clip_features.emplace(count, spec.stored_clip);
  }
  for (std::size_t i = 0; i < samples.size(); ++i) {
    const auto& sample = samples[i];
    auto size = sample.size;
    if (sam || clip) {
      auto image = decoded(sample);
      if (augmentations[i]) image = image::augment(image, *augmentations[i]);
      size = image.size();
      if (sam) image::sam_pixels(image, spec.sam_size, sam->of(i));
      if (clip) image::clip_pixels(image, spec.clip, image::Aspect::square, clip->of(i));
    }
    if (sam_features) sam_features->set(i, present(sample.features.sam, sample, "sam"));
    if (clip_features) clip_features->set(i, present(sample.features.clip, sample, "clip"));
    const auto resized = image::sam_size(size, spec.sam_size);
    batch.resize.push_back({resized.height, resized.width});
    batch.original.push_back({size.height, size.width});
  }
  if (sam) batch.images = sam->all;
  if (clip) batch.images_clip = clip->all;
  if (sam_features) batch.sam_features = sam_features->all;
  if (clip_features) batch.clip_features = clip_features->all;
}

std::span<const StoredImage> further_images(const StoredSample& sample, std::int64_t width) {
  const auto& ids = sample.conversations.front().ids;
  const auto end = std::min<std::int64_t>(width, static_cast<std::int64_t>(ids.size()));
  const auto lost = static_cast<std::size_t>(std::count(ids.begin() + end, ids.end(), text::kImageId));
  const auto all = std::span(sample.more_images);
  return all.first(all.size() - std::min(lost, all.size()));
}

namespace {

void fill_features(models::LlavaBatch& batch, const std::vector<StoredSample>& samples, std::int64_t count,
                   const InputSpec& spec) {
  Features features(count, spec.stored_clip);
  std::size_t next = 0;
  for (const auto& sample : samples) {
    features.set(next++, sample.has_image() ? present(sample.features.clip, sample, "clip") : nullptr);
    for (const auto& image : further_images(sample, batch.input_ids.size(1)))
      features.set(next++, present(image.features.clip, sample, "clip"));
  }
  batch.image_features = features.all;
}

/// One image as it goes to the tower: `encoded` decoded as Pillow opens it, whatever the EXIF orientation, and
/// augmented as its key has it.
image::Image picture_of(const std::vector<std::uint8_t>& encoded, const StoredSample& sample, std::uint64_t key,
                        const InputSpec& spec) {
  auto image = image::decode(encoded, sample.where);
  if (!spec.augment.any()) return image;
  RandomSequence random(mix_keys(key, hash_name("augmentation")));
  return image::augment(image, image::draw_augmentation(spec.augment, image.size(), random, may_flip(sample)));
}

/// Calls `take` with every image that rows of `width` ids hold, in order, or with nothing where a sample has none.
void each_picture(const std::vector<StoredSample>& samples, const std::vector<std::uint64_t>& keys, std::int64_t width,
                  const InputSpec& spec, const std::function<void(const image::Image*)>& take) {
  for (std::size_t i = 0; i < samples.size(); ++i) {
    const auto& sample = samples[i];
    const auto give = [&](const std::vector<std::uint8_t>& encoded, std::uint64_t key) {
      const auto image = picture_of(encoded, sample, key, spec);
      take(&image);
    };
    sample.has_image() ? give(sample.image, keys[i]) : take(nullptr);
    const auto further = further_images(sample, width);
    for (std::size_t k = 0; k < further.size(); ++k) give(further[k].bytes, mix_keys(keys[i], k));
  }
}

/// Pictures in tiles: how many there are is known once all are decoded.
void fill_tiles(models::LlavaBatch& batch, const std::vector<StoredSample>& samples,
                const std::vector<std::uint64_t>& keys, const InputSpec& spec) {
  std::vector<std::optional<image::Image>> views;  // nothing: blank
  each_picture(samples, keys, batch.input_ids.size(1), spec, [&](const image::Image* image) {
    if (image == nullptr) {
      views.emplace_back();
      batch.pictures.push_back({1, spec.clip.crop});
      return;
    }
    auto tiles = image::clip_views(*image, spec.clip, image::Aspect::anyres, spec.tiles->pinpoints);
    batch.pictures.push_back({std::ssize(tiles), image->size()});
    std::ranges::move(tiles, std::back_inserter(views));
  });
  Pixels pixels(std::ssize(views), spec.clip.crop);
  for (std::size_t i = 0; i < views.size(); ++i) {
    if (views[i]) {
      image::clip_normalize(*views[i], spec.clip, pixels.of(i));
    } else {
      std::ranges::fill(pixels.of(i), 0.0F);
    }
  }
  batch.images = pixels.all;
}

}  // namespace

void fill_pictures(models::LlavaBatch& batch, const std::vector<StoredSample>& samples,
                   const std::vector<std::uint64_t>& keys, const InputSpec& spec) {
  if (spec.tiles) return fill_tiles(batch, samples, keys, spec);
  std::int64_t count = 0;
  for (const auto& sample : samples)
    count += 1 + static_cast<std::int64_t>(further_images(sample, batch.input_ids.size(1)).size());
  if (!spec.stored_clip.empty()) return fill_features(batch, samples, count, spec);
  Pixels pixels(count, spec.clip.crop);
  std::size_t next = 0;
  each_picture(samples, keys, batch.input_ids.size(1), spec, [&](const image::Image* image) {
    const auto place = pixels.of(next++);
    if (image != nullptr) {
      image::clip_pixels(*image, spec.clip, spec.aspect, place);
    } else {
      std::ranges::fill(place, 0.0F);
    }
  });
  batch.images = pixels.all;
}

std::int64_t picture_bytes(const SampleSizes& sizes, const InputSpec& spec, bool lisa) {
  constexpr auto kFloat = static_cast<std::int64_t>(sizeof(float));
  constexpr std::int64_t kTwice = 2 * 2;  // in bf16: as read, and in the batch
  const auto images = lisa ? 1 : spec.tiles_of(sizes);
  const auto clip = spec.stored_clip.empty() ? 3 * kFloat * spec.clip.crop.height * spec.clip.crop.width
                                             : kTwice * numel(spec.stored_clip);
  if (!lisa) return images * clip;
  return clip +
         (spec.stored_sam.empty() ? 3 * kFloat * spec.sam_size * spec.sam_size : kTwice * numel(spec.stored_sam));
}

void describe_tower(const std::filesystem::path& folder, const models::VisionTowerConfig& tower, InputSpec& spec) {
  const std::int64_t side = tower.image_size();
  spec.clip = tower.fastvit ? image::unit_image_config(side) : image::with_size({}, side);
  if (folder.empty()) return;
  const auto processor = image::find_processor(folder);
  if (!processor) return;
  spec.clip = processor->clip;
  if (spec.clip.crop != image::Size{side, side}) {
    throw RequestError("{} crops to {} x {}, the tower takes {} pixels", processor->file.string(),
                       spec.clip.crop.height, spec.clip.crop.width, side);
  }
}

}  // namespace tessera::data
