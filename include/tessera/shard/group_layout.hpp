#pragma once
/// GroupLayout: where the tensors of one group lie in its flat buffer, and which part of it each rank owns.
///
/// A group is the part of a unit that shares a storage form: its frozen or its trained parameters. Its tensors lie one
/// after another, each aligned to `align` elements; the end is padded so that every rank owns an equal slice. Pure
/// functions of (tensors, world): tested for many ranks in one process. Padding never enters a norm, a hash or a file.
/// Units: elements.
/// Source: ZeRO, arXiv:1910.02054 (parameter partitioning); ours pads per group, not per tensor.
#include <cstdint>
#include <vector>

#include "tessera/nn/param.hpp"

namespace tessera::shard {

/// Rows of a matrix, on their own in a group.
struct RowRange {
  std::int64_t first = 0;
  std::int64_t count = 0;
};

/// A piece of one tensor inside a range of the flat buffer.
struct Piece {
  std::size_t tensor = 0;         ///< index into GroupLayout::tensors()
  std::int64_t tensor_begin = 0;  ///< first element inside the tensor
  std::int64_t slice_begin = 0;   ///< first element inside the range
  std::int64_t count = 0;
};

class GroupLayout {
 public:
  static constexpr std::int64_t kAlign = 64;  ///< 256 bytes of fp32

  struct Placed {
    nn::Param param;
    std::int64_t offset = 0;  ///< in the full buffer
    std::int64_t numel = 0;
    std::int64_t begin = 0;           ///< first element inside the tensor: not 0 where only some rows are here
    std::vector<std::int64_t> shape;  ///< of what is here
  };

  /// `align` is a multiple of kAlign.
  GroupLayout(const std::vector<nn::Param>& params, int world, std::int64_t align = kAlign);
  GroupLayout(const nn::Param& matrix, const RowRange& rows, int world, std::int64_t align = kAlign);

  const std::vector<Placed>& tensors() const noexcept { return tensors_; }
  int world() const noexcept { return world_; }
  std::int64_t elements() const noexcept { return elements_; }    ///< without padding
  std::int64_t slice() const noexcept { return slice_; }          ///< per rank, padding included
  std::int64_t full() const noexcept { return slice_ * world_; }  ///< padding included
  /// Pieces of tensors in the slice of `rank`, in order. Empty for a rank that owns padding alone.
  std::vector<Piece> pieces(int rank) const { return pieces_in(slice_ * rank, slice_); }
  /// Pieces of tensors in [begin, begin + count) of the full buffer.
  std::vector<Piece> pieces_in(std::int64_t begin, std::int64_t count) const;

 private:
  void place(Placed placed);
  std::vector<Placed> tensors_;
  int world_ = 1;
  std::int64_t align_ = kAlign;
  std::int64_t elements_ = 0;
  std::int64_t slice_ = 0;
};

}  // namespace tessera::shard
