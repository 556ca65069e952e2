#include "tessera/nn/prefix.hpp"

#include <ATen/ops/cat.h>
#include <ATen/ops/ones.h>

namespace tessera::nn {

std::shared_ptr<AttentionState> note_attention(const Scope& scope, std::string_view name, std::int64_t kv_heads,
                                               std::int64_t head_dim) {
  auto state = std::make_shared<AttentionState>();
  state->name = scope.join(name);
  state->unit = scope.unit();
  state->kv_heads = kv_heads;
  state->head_dim = head_dim;
  scope.layout().note_attention(state);
  return state;
}

std::pair<at::Tensor, at::Tensor> with_prefix(const AttentionState& layer, at::Tensor keys, at::Tensor values) {
  if (!layer.prefix) return {std::move(keys), std::move(values)};
  const auto before = [&keys](const at::Tensor& prefix) {
    return prefix.to(keys.scalar_type()).unsqueeze(0).expand({keys.size(0), -1, -1, -1});
  };
  const auto [prefix_keys, prefix_values] = layer.prefix->keys_and_values();
  return {at::cat({before(prefix_keys), keys}, 2), at::cat({before(prefix_values), values}, 2)};
}

at::Tensor mask_with_prefix(const at::Tensor& mask, std::int64_t length) {
  return length == 0 ? mask : at::cat({at::ones({mask.size(0), length}, mask.options()), mask}, 1);
}

}  // namespace tessera::nn
