#pragma once
/// Collation: stored samples to one micro-batch, as LISA's collate_fn or LLaVA's collator makes it.
/// Source: dvlab-research/LISA utils/dataset.py (collate_fn), utils/*_dataset.py (pre-processing); haotian-liu/LLaVA
/// llava/train/train.py (LazySupervisedDataset, DataCollatorForSupervisedDataset).
#include <cstdint>
#include <filesystem>
#include <optional>
#include <vector>

#include "tessera/data/shard_file.hpp"
#include "tessera/image/augment.hpp"
#include "tessera/image/preprocess.hpp"
#include "tessera/models/lisa_batch.hpp"
#include "tessera/models/llava_batch.hpp"
#include "tessera/models/tiles.hpp"
#include "tessera/models/vision_tower.hpp"

namespace tessera::data {

/// What the model wants to be fed with.
struct InputSpec {
  std::int64_t sam_size = 1024;                  ///< S
  image::ClipImageConfig clip;                   ///< of the vision tower; its crop gives s
  image::Aspect aspect = image::Aspect::square;  ///< LLaVA alone
  std::optional<models::TileConfig> tiles = {};  ///< LLaVA alone, with Aspect::anyres: what becomes of the tiles
  image::AugmentConfig augment;         ///< of training samples; what is drawn depends on the sample's key alone
  std::int64_t image_patches = 256;     ///< features that replace the one image token, where there are no tiles
  std::int64_t model_max_length = 512;  ///< positions after the image is spliced in
  /// Shapes of an image's features, [P,H] and [D,h,w], where the samples bring them instead of pixels; empty: pixels.
  std::vector<std::int64_t> stored_clip = {}, stored_sam = {};

  /// Tiles, and positions in the text, of a sample's pictures, each taken to be of the first one's size; a sample of
  /// text alone has a blank picture that takes no place.
  std::int64_t tiles_of(const SampleSizes& sizes) const;
  std::int64_t positions_of(const SampleSizes& sizes) const;
  /// What has to be read of a sample's images for training.
  ReadImages reads(bool lisa) const {
    return {.bytes = stored_clip.empty() || (lisa && stored_sam.empty()),
            .clip = !stored_clip.empty(),
            .sam = lisa && !stored_sam.empty()};
  }
};

/// Sets what the tower at `folder` is fed with: its preprocessor_config.json, or CLIP's own settings, or FastViT's. No
/// folder: a built-in tower. Throws RequestError where that is not the size the tower takes.
void describe_tower(const std::filesystem::path& folder, const models::VisionTowerConfig& tower, InputSpec& spec);

struct CollateReport {
  std::int64_t tokens = 0;             ///< that are no padding
  std::int64_t label_tokens = 0;       ///< next-token targets that are supervised
  std::int64_t padding = 0;            ///< tokens of padding
  std::int64_t cut_conversations = 0;  ///< longer than model_max_length - (image_patches - 1)
  std::int64_t dropped_targets = 0;    ///< masks whose [SEG] fell beyond the cut; the reference stops with an assertion
  CollateReport& operator+=(const CollateReport& other);
};

enum class Purpose {
  training,    ///< texts are cut; a target is 0 or 1
  evaluation,  ///< texts are whole; pixels that no score may count are 255 in every mask of the image
};

/// One micro-batch of `samples`, in order. `keys[i]` names sample i in the stream; conversations derive theirs from it.
/// Throws RunError naming the sample whose image does not decode, or whose [SEG] ids are not as many as its targets.
models::LisaBatch collate(const std::vector<StoredSample>& samples, const std::vector<std::uint64_t>& keys,
                          const ShardHeader& header, const InputSpec& spec, Purpose purpose, CollateReport& report);

/// One micro-batch of LLaVA, one row a sample. A sample of text alone brings a blank image that its row does not use,
/// as the reference has it. Rows are cut to model_max_length, and are to be cut to it again once the images are
/// spliced in: labels that this takes away are ignored ones and are not counted. Throws RunError like collate().
models::LlavaBatch collate_llava(const std::vector<StoredSample>& samples, const std::vector<std::uint64_t>& keys,
                                 const ShardHeader& header, const InputSpec& spec, CollateReport& report);

/// Bytes that collating a sample of these sizes allocates, within a few per cent.
std::int64_t collated_bytes(const SampleSizes& sizes, const InputSpec& spec, bool lisa = true);

}  // namespace tessera::data
