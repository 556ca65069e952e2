#pragma once
// The two kinds of semantic sets.
#include "tessera/data/sem_seg.hpp"

namespace tessera::data {

/// ade20k, cocostuff, mapillary.
std::unique_ptr<Reader> label_map_training(const std::filesystem::path& dataset_dir, std::string_view set,
                                           const SemSegConfig& config);
/// paco_lvis, pascal_part.
std::unique_ptr<Reader> part_training(const std::filesystem::path& dataset_dir, std::string_view set,
                                      const SemSegConfig& config);

}  // namespace tessera::data
