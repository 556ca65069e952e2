#pragma once
/// ReasonSeg: `reason_seg/<set>/<split>/<name>.{jpg,json}` and `reason_seg/<set>/explanatory/train.json`.
/// Source: dvlab-research/LISA utils/reason_seg_dataset.py, utils/data_processing.py, utils/dataset.py (ValDataset).
#include <memory>
#include <string_view>

#include "tessera/data/reader.hpp"

namespace tessera::data {

struct ReasonSegConfig {
  std::int64_t num_classes_per_sample = 3;  ///< instructions of an image in one sample, at most
  double explanatory = 0.1;                 ///< probability of a text-only explanation; < 0: no explanations at all
  double polygon_slack = 1.0;               ///< pixels a polygon may reach beyond the image
};

/// Training samples of `set_and_splits`, "ReasonSeg|train" or "ReasonSeg|train_val".
/// Throws RequestError when the text has no such form or a folder is missing.
std::unique_ptr<Reader> reason_seg_training(const std::filesystem::path& dataset_dir, std::string_view set_and_splits,
                                            const ReasonSegConfig& config);

/// Validation samples of one split: the first instruction alone, no random choice, no explanation.
std::unique_ptr<Reader> reason_seg_validation(const std::filesystem::path& dataset_dir, std::string_view set,
                                              std::string_view split, const ReasonSegConfig& config);

}  // namespace tessera::data
