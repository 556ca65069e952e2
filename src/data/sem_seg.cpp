#include "tessera/data/sem_seg.hpp"

#include "data/sem_seg_sets.hpp"
#include "tessera/core/error.hpp"

namespace tessera::data {

std::unique_ptr<Reader> sem_seg_training(const std::filesystem::path& dataset_dir, std::string_view set,
                                         const SemSegConfig& config) {
  if (set == "ade20k" || set == "cocostuff" || set == "mapillary") return label_map_training(dataset_dir, set, config);
  if (set == "paco_lvis" || set == "pascal_part") return part_training(dataset_dir, set, config);
  throw RequestError(
      "--sem_seg_data: no set is called '{}'; there are ade20k, cocostuff, pascal_part, paco_lvis, mapillary", set);
}

}  // namespace tessera::data
