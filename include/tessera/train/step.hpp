#pragma once
/// One optimiser step of a model over an engine: forward and backward of this rank's micro-batches, reduction,
/// clipping, update. Collective. Source: LISA train_ds.py (train), DeepSpeed's accumulation boundary.
#include <cstdint>
#include <vector>

#include "tessera/core/trace.hpp"
#include "tessera/shard/engine.hpp"
#include "tessera/shard/optimizer.hpp"
#include "tessera/train/adalora.hpp"
#include "tessera/train/loss_scale.hpp"
#include "tessera/train/metrics_log.hpp"
#include "tessera/train/recipe.hpp"

namespace tessera::train {

struct StepConfig {
  models::LossWeights weights;
  /// true: losses are means over the global batch, whatever the ranks; false: each micro-batch of each rank counts
  /// alike, as the reference has it.
  bool global_normalization = true;
  double max_grad_norm = 1.0;
  std::uint64_t seed = 0;     ///< of dropout
  TraceLog* trace = nullptr;  ///< gets the optimiser's span, if there is one
  AdaLora* adalora = nullptr;
};

/// The batch with its pictures and masks where the engine computes, pictures in its compute type; its text stays in
/// host memory, where its sequence is planned. What is there already is shared.
models::LlavaBatch on_device(const models::LlavaBatch& batch, const shard::EngineConfig& engine);
models::LisaBatch on_device(const models::LisaBatch& batch, const shard::EngineConfig& engine);

/// Learning rates must be set in `optimizer` beforehand. Fills the losses, grad_norm, skipped, tokens and samples of
/// the result, each for the global batch. A gradient that is not finite leaves weights and moments untouched;
/// `scaler` learns of it.
StepMetrics run_step(const Recipe& recipe, shard::Engine& engine, shard::Optimizer& optimizer,
                     const std::vector<Batch>& micro_batches, std::int64_t step, const StepConfig& config,
                     LossScaler& scaler);

}  // namespace tessera::train
