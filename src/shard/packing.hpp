#pragma once
// What the bytes of a quantised group mean (core/quantize.hpp has the numbers). The slice of a rank is a segment: the
// codes of its elements, then, for nf4 and fp4, the scales of its blocks: fp32, or one byte each with double
// quantisation. Segments follow one another in the order of the ranks, so a gather is one collective over bytes. What
// is tiny is whole on every rank: with double quantisation the scales' own scales and their mean, for int8 the scale of
// each row.
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "shard/group_spec.hpp"
#include "tessera/comm/communicator.hpp"
#include "tessera/io/tensor_source.hpp"

namespace tessera::shard {

std::int64_t segment_bytes(const GroupSpec& spec, std::int64_t slice) noexcept;
// Of what is whole on every rank.
std::int64_t constant_bytes(const GroupSpec& spec, const GroupLayout& layout) noexcept;

class Packing {
 public:
  Packing(const GroupSpec& spec, const GroupLayout& layout);

  // --- loading: `segment` is this rank's, of which `slice` is the number ---
  // Elements [begin, begin + count) of a tensor, whole blocks or rows (or the tensor's end), of which those in the
  // slice are kept. Several threads at once, not for the same elements. Throws RequestError naming the weight when one
  // of them is not finite.
  void put(const at::Tensor& segment, int slice, std::size_t tensor, std::int64_t begin, std::int64_t count,
           const float* values);
  // Of how many elements `begin` and `count` must be multiples, the tensor's end apart.
  std::int64_t grain(std::size_t tensor) const noexcept;
  // Instead, for all tensors of the group, where a file holds them packed in the same way: on every rank each tensor's
  // constants, then the parts of it in the slice. Return the bytes read.
  std::int64_t put_constants(std::size_t tensor, const io::PackedTensor& file);
  std::int64_t put_packed(const at::Tensor& segment, const Piece& piece, const io::PackedTensor& file);
  // Ends loading, collectively: what is whole on every rank, and the scales of the segment.
  void settle(const at::Tensor& segment, int slice, comm::Communicator& control);

  // --- expanding ---
  // All segments to values of the compute type: bytes [segments] to [elements, padding included].
  void expand(const at::Tensor& segments, const at::Tensor& out) const;
  // The same by operations that every device has; what expand does on a device.
  void expand_by_operations(const at::Tensor& segments, const at::Tensor& out) const;
  // Elements [at, at + count) of a piece of slice `slice`, from its segment in host memory; `at` begins a block. The
  // values are those of expand before they are rounded to the compute type.
  void expand_piece(const std::uint8_t* segment, const Piece& piece, std::int64_t at, std::int64_t count,
                    float* out) const;
  // One tensor, from all segments in host memory: what bitsandbytes calls weight and absmax. Codes U8
  // [(n + 1) / 2, 1] and fp32 scales a block; int8: I8 [out, in] and fp32 scales a row.
  std::pair<at::Tensor, at::Tensor> extract(const at::Tensor& segments, std::size_t tensor) const;

 private:
  struct Tensor {
    std::int64_t columns = 0;    // of a matrix
    std::int64_t constants = 0;  // where its constants begin
    float mean = 0;              // double quantisation
  };
  bool four_bits() const noexcept { return spec_.quant != QuantKind::int8; }
  std::int64_t codes_bytes() const noexcept { return four_bits() ? layout_->slice() / 2 : layout_->slice(); }
  std::int64_t scale_bytes() const noexcept { return spec_.double_quant ? 1 : 4; }
  void nest_scales(std::vector<std::uint8_t>& mine, int slice, comm::Communicator& control);
  void write_scales(const at::Tensor& segment, const void* data, std::int64_t bytes) const;
  void scales_of(const std::uint8_t* segment, const Piece& piece, std::int64_t at, std::int64_t blocks,
                 float* out) const;
  at::Tensor device_scales(const at::Tensor& segment, const Piece& piece, std::int64_t first,
                           std::int64_t blocks) const;
  void expand_on_host(const at::Tensor& segments, const at::Tensor& out) const;
  void expand_blocks(const at::Tensor& segments, const at::Tensor& out) const;
  void expand_rows(const at::Tensor& segments, const at::Tensor& out) const;

  GroupSpec spec_;
  const GroupLayout* layout_;
  std::vector<Tensor> tensors_;
  std::vector<float> constants_;                    // absmax2 of all tensors, or the scales of all rows
  at::Tensor device_constants_, codebook_, code8_;  // beside the weights
  std::vector<float> absmax_;                       // of the slice, until settle
  std::vector<std::uint8_t> given_;  // scales of the slice that a file held doubly quantised, until settle
  bool from_file_ = false;
};

}  // namespace tessera::shard
