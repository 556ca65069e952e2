#pragma once
/// UnitRunner: how a model calls one of its units. The model does not know whether it is sharded: the ZeRO-3 engine
/// (shard/engine.hpp) gathers the unit's weights around the call, recomputes it in backward when it is checkpointed,
/// prefetches the next one; LocalRunner does nothing around it.
///
/// Rule for models: which units run, and in which order, depends on the model alone, never on what is in a batch. A
/// batch without images or without [SEG] calls the same units with empty tensors.
#include <functional>
#include <memory>
#include <vector>

#include "tessera/nn/param.hpp"

namespace tessera::nn {

using Tensors = std::vector<at::Tensor>;
/// Pure in its tensor inputs and the unit's weights: it may run twice (activation checkpointing). Everything a gradient
/// must flow through goes in by `inputs`, not by capture.
using UnitFn = std::function<Tensors(const Tensors& inputs)>;

class UnitRunner {
 public:
  virtual ~UnitRunner() = default;
  /// Collective over the engine's communicator. Weights of `unit` are bound while `fn` runs. `again`: what backward
  /// runs in place of `fn` where it recomputes the unit. It has the same graph, but need not have the outputs' values
  /// (Linear::without_value); empty: `fn` itself.
  virtual Tensors run(UnitId unit, const Tensors& inputs, const UnitFn& fn, const UnitFn& again = {}) = 0;
};

/// All weights whole on this rank and always bound: single-process tests and tools.
class LocalRunner final : public UnitRunner {
 public:
  Tensors run(UnitId unit, const Tensors& inputs, const UnitFn& fn, const UnitFn& again = {}) override;
};

/// Allocates and initialises every parameter of the layout on the CPU in fp32 and binds it; trainable ones require
/// gradients. For tests and small tools; the engine never does this.
void materialize(ModelLayout& layout, std::uint64_t seed);

}  // namespace tessera::nn
