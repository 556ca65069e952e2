#pragma once
/// Validation: gIoU and cIoU of teacher-forced masks over a prepared split. Source: LISA train_ds.py (validate).
#include <cstdint>
#include <filesystem>
#include <string>

#include "tessera/core/log.hpp"
#include "tessera/data/loader.hpp"
#include "tessera/models/lisa.hpp"
#include "tessera/shard/engine.hpp"
#include "tessera/train/iou.hpp"

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

}  // namespace tessera::train
