#include "dora_start.hpp"

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>

#include <map>
#include <vector>

namespace tessera::train {

void start_magnitudes(shard::Engine& engine, const adapt::Lora& lora) {
  if (!lora.config.dora) return;
  std::map<nn::UnitId, std::vector<const adapt::LoraLayer*>> by_unit;
  for (const auto& layer : lora.layers) by_unit[layer.target->weight->unit].push_back(&layer);
  std::map<const nn::ParamState*, at::Tensor> lengths;
  engine.with_gathered(lora.unit, true, [&] {
    for (const auto& [unit, layers] : by_unit) {
      engine.with_gathered(unit, true, [&, &layers = layers] {
        for (const auto* layer : layers) {
          lengths[layer->magnitude.get()] =
              adapt::row_norms(layer->target->weight->value(), layer->a->value(), layer->b->value(), layer->scaling);
        }
      });
    }
  });
  const at::NoGradGuard no_grad;
  for (auto& slice : engine.trained()) {
    for (const auto& piece : slice.pieces) {
      const auto found = lengths.find(slice.layout->tensors()[piece.tensor].param.get());
      if (found == lengths.end()) continue;
      slice.master.narrow(0, piece.slice_begin, piece.count)
          .copy_(found->second.narrow(0, piece.tensor_begin, piece.count));
    }
  }
}

}  // namespace tessera::train
