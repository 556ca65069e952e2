#pragma once
/// Semantic segmentation: ADE20K, COCO-Stuff and Mapillary Vistas as label maps, PACO-LVIS and Pascal-Part as COCO
/// annotations of objects' parts.
/// Source: dvlab-research/LISA utils/sem_seg_dataset.py.
#include <memory>
#include <string_view>

#include "tessera/data/reader.hpp"

namespace tessera::data {

struct SemSegConfig {
  std::int64_t num_classes_per_sample = 3;
  /// PACO-LVIS and Pascal-Part: the mask of a class is the union of its instances in the image, not the one instance
  /// that was drawn as in the reference.
  bool part_union = false;
};

/// One of ade20k, cocostuff, mapillary, paco_lvis, pascal_part. Throws RequestError: another name, missing files.
std::unique_ptr<Reader> sem_seg_training(const std::filesystem::path& dataset_dir, std::string_view set,
                                         const SemSegConfig& config);

}  // namespace tessera::data
