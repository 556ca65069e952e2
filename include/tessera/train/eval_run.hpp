#pragma once
/// One validation of a finished model folder over a prepared split, and the mean-mask baseline beside it. Collective.
#include <c10/core/Device.h>

#include <cstdint>
#include <optional>
#include <string>

#include "tessera/comm/fabric.hpp"
#include "tessera/core/log.hpp"
#include "tessera/train/config.hpp"
#include "tessera/train/evaluate.hpp"

namespace tessera::train {

struct EvalRequest {
  TrainConfig model;  ///< version, vision_tower, vision_pretrained, hub_dir, precision
  std::string shards;
  std::string split = "val";
  std::string baseline_shards;
  std::int64_t model_max_length = 512;
  std::int64_t max_items = -1;
  bool count_padding = false;  ///< EvalLoader's
  std::int64_t workers = 2;
  std::uint64_t seed = 42;  ///< of weights that no file holds, with model.random_init
  std::string overlay_dir;
  std::int64_t overlays = 0;
  std::string report;
};

struct EvalResult {
  Evaluation model;
  std::optional<IouSum> baseline;
};

EvalResult run_evaluation(const EvalRequest& request, const comm::Fabric& fabric, c10::Device device, const Log& log);

/// giou, ciou, masks, of all, short and long questions, and the baseline's, as one JSON object.
std::string to_json(const EvalResult& result);

/// Scores, on the split's items, one answer to every question: the mean of the training masks, each resized to a common
/// grid, cut at the threshold that scores best on them. The result is the same on all ranks. Throws RequestError when
/// `train` holds no mask. Collective.
IouSum mean_mask_baseline(const data::Shards& train, const data::Shards& split, comm::Communicator& control);

}  // namespace tessera::train
