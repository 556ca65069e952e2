#include "tessera/nn/kv_cache.hpp"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>

#include <algorithm>

#include "tessera/core/error.hpp"

namespace tessera::nn {
namespace {

constexpr std::int64_t kPositions = 2;  // the dimension of positions
constexpr std::int64_t kLeastCapacity = 64;

/// The same content with room for more positions.
at::Tensor grown(const at::Tensor& held, std::int64_t length, const at::Tensor& like, std::int64_t capacity) {
  at::Tensor out = at::empty({like.size(0), like.size(1), capacity, like.size(3)}, like.options());
  if (length > 0) out.narrow(kPositions, 0, length).copy_(held.narrow(kPositions, 0, length));
  return out;
}

bool fits(const at::Tensor& held, const at::Tensor& added) {
  return held.size(0) == added.size(0) && held.size(1) == added.size(1) && held.size(3) == added.size(3);
}

}  // namespace

KeyValueCache::Entry KeyValueCache::append(std::size_t layer, const at::Tensor& keys, const at::Tensor& values) {
  if (at::GradMode::is_enabled()) throw RunError("nn: a key-value cache is for generation, without gradients");
  Layer& own = layers_.at(layer);
  const std::int64_t length = own.length + keys.size(kPositions);
  if (own.length > 0 && (!fits(own.keys, keys) || !fits(own.values, values))) {
    throw RunError("nn: layer {} of the key-value cache holds {} rows and {} heads, {} rows and {} heads were added",
                   layer, own.keys.size(0), own.keys.size(1), keys.size(0), keys.size(1));
  }
  if (own.length == 0 || length > own.keys.size(kPositions)) {
    const std::int64_t capacity = std::max({kLeastCapacity, length, 2 * own.length});
    own.keys = grown(own.keys, own.length, keys, capacity);
    own.values = grown(own.values, own.length, values, capacity);
  }
  own.keys.narrow(kPositions, own.length, keys.size(kPositions)).copy_(keys);
  own.values.narrow(kPositions, own.length, values.size(kPositions)).copy_(values);
  own.length = length;
  return {own.keys.narrow(kPositions, 0, length), own.values.narrow(kPositions, 0, length)};
}

void KeyValueCache::truncate(std::int64_t length) {
  for (Layer& layer : layers_) layer.length = std::clamp<std::int64_t>(length, 0, layer.length);
}

void KeyValueCache::select_rows(const at::Tensor& index) {
  for (Layer& layer : layers_) {
    if (layer.length == 0) continue;
    layer.keys = layer.keys.index_select(0, index);
    layer.values = layer.values.index_select(0, index);
  }
}

}  // namespace tessera::nn
