#pragma once
// The layers of a decoder, one unit each, whatever the family.
#include <memory>
#include <vector>

#include "tessera/models/language_model.hpp"

namespace tessera::models {

// x [B,T,D] to [n,D] where the call asks for rows; otherwise x itself.
inline at::Tensor take_rows(const at::Tensor& x, const LayerCall& call) {
  return call.rows.defined() ? x.reshape({-1, x.size(-1)}).index_select(0, call.rows) : x;
}

template <class Layer, class Pass>
at::Tensor run_layers(const std::vector<Layer>& layers, const std::vector<nn::UnitId>& units,
                      const std::shared_ptr<Pass>& pass, at::Tensor x, nn::UnitRunner& runner,
                      const nn::ForwardContext& ctx, const DecodeOptions& options) {
  for (std::size_t i = 0; i < layers.size(); ++i) {
    if (options.trace != nullptr) options.trace->push_back(x);
    LayerCall call;
    if (i + 1 == layers.size()) call.rows = options.rows;
    const auto function = [&layer = layers[i], &pass, &ctx](const LayerCall& which) -> nn::UnitFn {
      return
          [&layer, pass, ctx, which](const nn::Tensors& in) { return nn::Tensors{layer(in.at(0), *pass, ctx, which)}; };
    };
    x = runner.run(units[i], {x}, function(call), function({call.rows, false})).at(0);
  }
  return layers.empty() ? take_rows(x, {options.rows}) : x;
}

}  // namespace tessera::models
