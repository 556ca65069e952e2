#pragma once
/// KeyValueCache: the keys and values of the positions a decoder has seen, so that a generated token costs one
/// position.
///
/// Shapes: B rows, h_kv key-value heads, P positions held, T new ones, d of a head.
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace tessera::nn {

class KeyValueCache {
 public:
  explicit KeyValueCache(std::int64_t layers) : layers_(static_cast<std::size_t>(layers)) {}

  struct Entry {
    at::Tensor keys;  ///< [B,h_kv,P,d]
    at::Tensor values;
  };
  /// Adds T positions to a layer and returns all it holds now, as views. keys, values [B,h_kv,T,d].
  /// Throws RunError when gradients are recorded, or rows, heads or widths differ from what is held.
  Entry append(std::size_t layer, const at::Tensor& keys, const at::Tensor& values);

  std::int64_t layers() const noexcept { return static_cast<std::int64_t>(layers_.size()); }
  /// Positions that the first layer holds: outside a decoder's call, what all of them hold.
  std::int64_t length() const noexcept { return layers_.empty() ? 0 : layers_.front().length; }
  /// Forgets all but the first `length` positions; the buffers stay.
  void truncate(std::int64_t length);
  /// Keeps the rows of `index`, i64 [B'], in that order: rows that are finished leave, beams are copied.
  void select_rows(const at::Tensor& index);

 private:
  struct Layer {
    at::Tensor keys;  ///< [B,h_kv,capacity,d]
    at::Tensor values;
    std::int64_t length = 0;
  };
  std::vector<Layer> layers_;
};

}  // namespace tessera::nn
