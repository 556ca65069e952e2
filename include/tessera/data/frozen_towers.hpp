#pragma once
/// FrozenTowers: the vision towers of a model alone, sharded over the job, run once over the images of a data set. What
/// they give is stored in shards (`prepare --store_features`), so that training need not run them again and again; and
/// what tells a trainer that stored features are those of its own towers.
///
/// Shapes: P tokens of an image, H channels of CLIP; D, h, w of SAM's image embedding, its neck included.
#include <c10/core/Device.h>

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "tessera/comm/fabric.hpp"
#include "tessera/data/collate.hpp"
#include "tessera/data/shard.hpp"
#include "tessera/io/sources.hpp"
#include "tessera/models/sam.hpp"
#include "tessera/models/vision_tower.hpp"
#include "tessera/shard/config.hpp"

namespace tessera::data {

/// What is stored of a tower, but for TowerFeatures::tower: equal where images reach equal towers in the same way.
/// Throws RequestError for a tower that is not CLIP.
TowerFeatures describe_clip(const models::VisionTowerConfig& tower, const InputSpec& spec);
TowerFeatures describe_sam(const models::SamConfig& sam);

/// The units of `layout` that belong to the tower ("clip", "sam") and run.
std::vector<nn::UnitId> tower_units(const nn::ModelLayout& layout, std::string_view tower);

/// TowerFeatures::tower: the digest of the weights of these units, as `source` holds them under the layout's names. It
/// does not depend on the model around the tower. Collective. Throws RequestError when one is missing or of another
/// shape.
std::uint64_t tower_digest(const nn::ModelLayout& layout, std::string_view tower, const std::vector<nn::UnitId>& units,
                           const io::TensorSource& source, comm::Communicator& comm);

/// Which towers, of which model.
struct TowerRequest {
  std::vector<std::string> towers;                       ///< "clip", "sam"
  std::string recipe = "lisa";                           ///< "lisa" or "llava", which has no SAM
  std::string model;                                     ///< its folder
  std::string vision_tower, vision_pretrained, hub_dir;  ///< as models::LisaFolderRequest's
  std::string aspect = "square";                         ///< llava: how an image becomes a square
  nlohmann::json settings = nlohmann::json::object();    ///< llava: as models::LlavaFolderRequest's
};

/// What they run on.
struct TowerMachine {
  comm::Fabric fabric;
  c10::Device device{c10::DeviceType::CPU};
  shard::ComputeType compute = shard::ComputeType::f32;
  /// Every rank holds the towers whole; otherwise they are cut over the ranks and gathered block by block.
  bool resident = true;
  int workers = 2;  ///< threads of a rank that decode and resize
};

class FrozenTowers {
 public:
  /// Collective. Throws RequestError on every rank: names, files, weights that are not there.
  FrozenTowers(const TowerRequest& request, const TowerMachine& machine);
  ~FrozenTowers();

  const std::vector<TowerFeatures>& features() const noexcept;
  std::int64_t bytes_per_image() const noexcept;
  /// Fills data->features from its images; null: this rank has none to do, but takes part. Batches are those of the
  /// shard, so its bytes do not depend on the number of ranks, given as many threads a rank. Collective.
  void run(ShardData* data);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tessera::data
