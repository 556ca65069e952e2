#pragma once
/// Plan of a `prepare`: which items go into which shard, before anything is read. A function of the data set and the
/// settings alone, so the shards do not depend on the number of ranks, nor on what a stopped run had done.
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "tessera/data/reader.hpp"

namespace tessera::data {

struct ItemOfImage {
  std::int32_t reader = 0;
  std::int64_t item = 0;
};

/// One image and everything the data sets say of it: the unit of work. Or several images that belong together, or none:
/// text alone.
struct WorkUnit {
  std::filesystem::path folder;     ///< of the images
  std::vector<std::string> images;  ///< relative to `folder`
  std::int64_t bytes = 0;           ///< size of the files; 0 for those that are missing
  std::vector<ItemOfImage> items;
};

struct PlannedShard {
  std::string name;  ///< "train-00003-of-00008.h5"
  std::vector<WorkUnit> units;
  /// Hash of settings and units: images by name and size, annotations by content, label maps by size. A finished shard
  /// that carries it need not be made again.
  std::string fingerprint;
};

/// Items grouped by their images, in the order in which these are first met; text alone is not grouped.
std::vector<WorkUnit> group_by_image(const std::filesystem::path& dataset_dir,
                                     const std::vector<std::unique_ptr<Reader>>& readers);

struct ShardSize {
  std::int64_t bytes = 0;              ///< of a shard, at most about
  std::int64_t features_an_image = 0;  ///< bytes that are stored of each image beside itself
};

/// Cuts `units` into shards of nearly equal bytes; small sets are cut into up to eight shards of at least eight images,
/// so that ranks can share the work. `settings` is what determines the content.
std::vector<PlannedShard> plan_shards(const std::string& split, std::vector<WorkUnit> units, const ShardSize& size,
                                      const std::string& settings, const std::vector<std::unique_ptr<Reader>>& readers);

}  // namespace tessera::data
