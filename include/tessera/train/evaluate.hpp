#pragma once
/// Validation over prepared samples: gIoU and cIoU of teacher-forced masks (source: LISA train_ds.py, validate), or the
/// mean loss of a LLaVA, whose reference has no validation.
#include <cstdint>
#include <filesystem>
#include <string>

#include "tessera/core/log.hpp"
#include "tessera/data/loader.hpp"
#include "tessera/models/lisa.hpp"
#include "tessera/shard/engine.hpp"
#include "tessera/train/iou.hpp"
#include "tessera/train/recipe.hpp"

namespace tessera::train {

struct Evaluation {
  IouSum all, short_questions, long_questions;
  double seconds = 0;
};

/// Runs the items of `loader` from its start; every rank makes the same number of calls. The result is the same on all
/// ranks. With `overlay_dir`, the first `overlays` items are drawn there by whoever has them (image, target, prediction
/// side by side). Collective.
Evaluation evaluate(const models::LisaModel& model, shard::Engine& engine, data::EvalLoader& loader,
                    const std::filesystem::path& overlay_dir, std::int64_t overlays);

struct LossEvaluation {
  double loss = 0;  ///< mean over all target tokens; NaN where there is none
  std::int64_t tokens = 0, samples = 0;
  double seconds = 0;
};

/// Runs the items of `loader` from its start, each once; every rank makes the same number of calls. The losses are
/// added without rounding, so the result is the same on all ranks and for any number of them. Collective.
LossEvaluation evaluate_loss(const Recipe& recipe, shard::Engine& engine, data::EvalLoader& loader);

}  // namespace tessera::train
