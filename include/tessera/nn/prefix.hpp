#pragma once
/// Learned keys and values that stand before a row's own in an attention layer (prefix tuning). They are used as they
/// are, without rotary positions; the row's own tokens are at positions P, P+1, …, and every query sees all of them.
/// Shapes: B rows, H key-value heads, d head size, P positions of the prefix, K keys.
/// Source: arXiv:2101.00190; huggingface/peft tuners/prefix_tuning.
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "tessera/nn/param.hpp"

namespace tessera::nn {

class AttentionPrefix {
 public:
  virtual ~AttentionPrefix() = default;
  virtual std::int64_t length() const = 0;
  /// Keys and values [H, P, d] with their graph, in the weights' type. Its unit's weights are bound.
  virtual std::pair<at::Tensor, at::Tensor> keys_and_values() const = 0;
};

/// The shared part of a causal attention layer: what ModelLayout::attentions() lists, so that a prefix finds its place.
struct AttentionState {
  std::string name;  ///< full: "model.layers.3.self_attn"
  UnitId unit = -1;
  std::int64_t kv_heads = 0;
  std::int64_t head_dim = 0;
  std::shared_ptr<const AttentionPrefix> prefix;
  std::int64_t prefix_length() const { return prefix ? prefix->length() : 0; }
};

/// Notes the layer `name` of the scope in the layout.
std::shared_ptr<AttentionState> note_attention(const Scope& scope, std::string_view name, std::int64_t kv_heads,
                                               std::int64_t head_dim);

/// keys and values [B, H, K, d], with the layer's prefix before them [B, H, P+K, d] if it has one.
std::pair<at::Tensor, at::Tensor> with_prefix(const AttentionState& layer, at::Tensor keys, at::Tensor values);

/// mask bool [B, K], true before it for `length` more positions.
at::Tensor mask_with_prefix(const at::Tensor& mask, std::int64_t length);

}  // namespace tessera::nn
