#pragma once
// Validation: the validations of a run, and which of them was the best so far: by --metric_for_best_model, or gIoU
// where the family has masks and the mean loss where it has none.
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>

#include "tessera/comm/fabric.hpp"
#include "tessera/data/loader.hpp"
#include "tessera/train/best_metric.hpp"
#include "tessera/train/model_setup.hpp"
#include "tessera/train/trainer.hpp"
#include "train/run_log.hpp"
#include "train/stored_features.hpp"

namespace tessera::train {

// The validation data of a run: nothing where it validates on none. Throws RequestError.
std::optional<data::Shards> validation_shards(const TrainRequest& request, const LoadedModel& model);

class Validation {
 public:
  // Everything given outlives it. Collective, like run().
  Validation(const TrainRequest& request, LoadedModel& model, const StoredFeatures& features,
             const comm::Fabric& fabric, const Log& log, RunLog& run_log);
  // Whether a run validates at all.
  explicit operator bool() const noexcept { return loader_.has_value(); }
  // True when it is the best so far. With `overlays`, pictures are left there.
  bool run(std::int64_t step, const std::filesystem::path& overlays);

  const BestMetric& best() const noexcept { return best_; }

  void put_state(nlohmann::json& state) const;
  void restore(const nlohmann::json& state);

 private:
  bool masks(std::int64_t step, const std::filesystem::path& overlays);
  bool loss(std::int64_t step);

  const TrainRequest& request_;
  LoadedModel& model_;
  Log log_;
  RunLog& run_log_;
  std::optional<data::Shards> shards_;
  std::optional<data::EvalLoader> loader_;
  BestMetric best_;
};

}  // namespace tessera::train
