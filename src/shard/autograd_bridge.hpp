#pragma once
// How the engine meets autograd: a checkpointed unit, and the two identities around a unit that keeps its graph.
#include "tessera/nn/runner.hpp"

namespace tessera::shard {

// What the autograd functions ask of the engine.
class BackwardHooks {
 public:
  virtual ~BackwardHooks() = default;
  virtual void enter_backward(nn::UnitId unit) = 0;  // gather, bind, open the gradient buffer
  virtual void leave_backward(nn::UnitId unit) = 0;  // reduce, release
};

// Runs `fn` without a graph now; in backward runs `again` with one and differentiates that. `anchor` is a scalar that
// requires a gradient, so that the outputs do even when only weights train.
nn::Tensors run_checkpointed(BackwardHooks& hooks, nn::UnitId unit, const nn::Tensors& inputs, const nn::UnitFn& fn,
                             const nn::UnitFn& again, const at::Tensor& anchor);

// Identities whose backward calls leave_backward (on inputs) and enter_backward (on outputs).
nn::Tensors mark_inputs(BackwardHooks& hooks, nn::UnitId unit, const nn::Tensors& inputs);
nn::Tensors mark_outputs(BackwardHooks& hooks, nn::UnitId unit, const nn::Tensors& outputs);

void run_backward(const at::Tensor& loss);

}  // namespace tessera::shard
