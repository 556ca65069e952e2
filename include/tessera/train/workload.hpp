#pragma once
/// Workload of a micro-batch: what each unit of a model keeps, needs at once and multiplies, from shapes alone. An
/// estimate that follows the models' code operation by operation; tests hold it to measured peaks.
#include <cstdint>

#include "tessera/data/collate.hpp"
#include "tessera/data/shards.hpp"
#include "tessera/models/language_config.hpp"
#include "tessera/models/lisa.hpp"
#include "tessera/models/llava.hpp"
#include "tessera/shard/planner.hpp"

namespace tessera::train {

/// The largest micro-batch of a run.
struct BatchShape {
  std::int64_t images = 2;
  std::int64_t rows = 6;      ///< conversations
  std::int64_t views = 0;     ///< what the vision tower sees: images, or the tiles of them; 0: images
  std::int64_t length = 512;  ///< positions of a row, the picture's included
  std::int64_t scored = -1;   ///< positions with a label, of all rows; -1: all
  std::int64_t masks = 6;
  std::int64_t mask_pixels = 1024 * 1024;  ///< of one mask
  std::int64_t micro_batches = 1;          ///< per rank and step
  std::int64_t read_ahead = 0;             ///< bytes of batches that wait, besides those of the step in hand
  std::int64_t scored_positions() const noexcept { return scored < 0 ? rows * length : scored; }
  std::int64_t tower_images() const noexcept { return views > 0 ? views : images; }
};

/// The largest that `images` samples of these shards can make. Rows cut at `model_max_length` positions.
BatchShape batch_shape(const data::Shards& shards, std::int64_t images, const data::InputSpec& spec,
                       std::int64_t micro_batches, std::int64_t read_ahead);

/// The work of a model alone, whose layout this is. `element`: bytes of the arithmetic's type.
shard::Workload language_workload(const nn::ModelLayout& layout, const models::LanguageConfig& config,
                                  const BatchShape& shape, std::int64_t element);
shard::Workload lisa_workload(const nn::ModelLayout& layout, const models::LisaConfig& config, const BatchShape& shape,
                              std::int64_t element);
shard::Workload llava_workload(const nn::ModelLayout& layout, const models::LlavaConfig& config,
                               const BatchShape& shape, std::int64_t element);

}  // namespace tessera::train
