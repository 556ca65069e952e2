#pragma once
// The pictures of a batch as the towers take them: pixels, or the features that the shards hold in their place.
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "tessera/data/collate.hpp"

namespace tessera::data {

/// Fills images or sam_features, images_clip or clip_features, and the sizes. Throws RunError naming the sample.
void fill_pictures(models::LisaBatch& batch, const std::vector<StoredSample>& samples,
                   const std::vector<std::optional<image::Augmentation>>& augmentations, const InputSpec& spec);

/// The images behind the first whose places are among the row's `width` ids; the others went with the text's end.
std::span<const StoredImage> further_images(const StoredSample& sample, std::int64_t width);

/// Fills images or image_features behind input_ids: every image of the samples but those whose places were cut off, and
/// a blank one for a sample of text alone; and pictures, where they come in tiles.
void fill_pictures(models::LlavaBatch& batch, const std::vector<StoredSample>& samples,
                   const std::vector<std::uint64_t>& keys, const InputSpec& spec);

/// Bytes of what is filled for one sample, and of what is read for it beside its encoded images.
std::int64_t picture_bytes(const SampleSizes& sizes, const InputSpec& spec, bool lisa);

}  // namespace tessera::data
