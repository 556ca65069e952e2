#pragma once
/// AdaLora: what AdaLoRA adds to a step over an engine: the regulariser's gradient before the update, the allocation of
/// the budget after it. Independent of what is in a batch and, to the last bit, of the number of ranks: the regulariser
/// is computed by every rank from the whole adapters, importance is kept beside the slices and gathered where triplets
/// are chosen. Every call is collective.
/// Source: huggingface/peft tuners/adalora/model.py (forward, update_and_allocate).
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>

#include "tessera/adapt/lora.hpp"
#include "tessera/shard/engine.hpp"

namespace tessera::train {

class AdaLora {
 public:
  /// Both outlive it. The engine keeps the moving averages (EngineConfig::importance is the adapters' unit).
  AdaLora(shard::Engine& engine, adapt::Lora& lora);

  /// Adds the gradient of orth_reg_weight times the regulariser, times `scale`, to the slices' gradients, once a step,
  /// between Engine::reduce_held and check_gradients. Returns the regulariser, without the weight.
  double regularise(double scale);
  double weight() const noexcept { return config_.orth_reg_weight; }

  /// Just before the optimiser's update, which may leave other gradients behind: keeps a copy of the adapters'.
  void before_update();
  /// After it and before Engine::end_step. step counts from 1; grad_scale is what the update multiplied the gradients
  /// by. Sets E's masters and the adapter's rank_pattern.
  void allocate(std::int64_t step, double grad_scale);

  /// JSON text of the rank pattern, which a checkpoint keeps beside the slices.
  std::string state() const;
  /// Throws RequestError when it is none of this adapter's.
  void restore(const std::string& state);

 private:
  void update_importance(double grad_scale);
  void choose(std::int64_t budget);
  void mask();
  shard::TrainedSlice& slice();

  shard::Engine& engine_;
  adapt::Lora& lora_;
  adapt::AdaLoraConfig& config_;
  at::Tensor gradient_;  // of this step, as long as the slice
};

}  // namespace tessera::train
