#include "tessera/nn/runner.hpp"

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include "tessera/nn/init.hpp"

namespace tessera::nn {

Tensors LocalRunner::run(UnitId /*unit*/, const Tensors& inputs, const UnitFn& fn, const UnitFn& /*again*/) {
  return fn(inputs);
}

void materialize(ModelLayout& layout, std::uint64_t seed) {
  for (const Param& param : layout.params()) {
    at::Tensor value = at::empty(param->shape, at::kFloat);
    fill_init(*param, seed, 0, param->numel(), value.data_ptr<float>());
    value.requires_grad_(param->trainable && !param->buffer);
    param->bind(std::move(value));
  }
}

}  // namespace tessera::nn
