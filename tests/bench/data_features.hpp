#pragma once
// How fast the loader delivers stored features beside how fast the disk gives the same files.
#include <cstdint>
#include <filesystem>

namespace tessera::bench {

struct FeatureRates {
  double disk_mib_s = 0;    ///< the shards' files one after another, by large reads, none of them in memory before
  double pieces_mib_s = 0;  ///< one image's features after another in a random order, by as many threads as the loader
  double loader_mib_s = 0;  ///< features in batches, the same files, none of them in memory before
};

/// Writes shards of `images` images with features of a CLIP ViT-L/14 at 224 and of a SAM ViT-H (2.5 MiB an image) under
/// `folder`, and reads them `rounds` times in turn; medians.
FeatureRates measure_features(const std::filesystem::path& folder, std::int64_t images, int rounds);

}  // namespace tessera::bench
