#include "shard/packing.hpp"

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/mean.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "tessera/core/error.hpp"
#include "tessera/io/quantized_source.hpp"

namespace tessera::shard {

namespace {

constexpr std::int64_t kTask = std::int64_t{1} << 16;        // elements that a thread expands at a time
constexpr std::int64_t kDeviceTask = std::int64_t{1} << 22;  // elements expanded at a time on a device

const std::uint8_t* bytes_of(const at::Tensor& t) {
  return t.const_data_ptr<std::uint8_t>();
}

void write_bytes(const at::Tensor& segment, std::int64_t at, const void* data, std::int64_t count) {
  if (segment.is_cpu()) {
    std::memcpy(segment.mutable_data_ptr<std::uint8_t>() + at, data, static_cast<std::size_t>(count));
  } else {
    segment.narrow(0, at, count).copy_(at::from_blob(const_cast<void*>(data), {count}, at::kByte));
  }
}

// In host memory a view.
at::Tensor on_device(std::span<const float> values, c10::Device device) {
  return at::from_blob(const_cast<float*>(values.data()), {static_cast<std::int64_t>(values.size())}, at::kFloat)
      .to(device);
}

std::int64_t constants_of(const GroupSpec& spec, const GroupLayout::Placed& tensor) noexcept {
  if (spec.quant == QuantKind::int8) return tensor.shape.at(0);
  return spec.double_quant ? nested_blocks(quant_blocks(tensor.numel)) : 0;
}

}  // namespace

std::int64_t segment_bytes(const GroupSpec& spec, std::int64_t slice) noexcept {
  if (spec.quant == QuantKind::int8) return slice;
  return slice / 2 + slice / kQuantBlock * (spec.double_quant ? 1 : 4);
}

std::int64_t constant_bytes(const GroupSpec& spec, const GroupLayout& layout) noexcept {
  std::int64_t count = 0;
  for (const auto& tensor : layout.tensors()) count += constants_of(spec, tensor) + (spec.double_quant ? 1 : 0);
  return count * 4;
}

Packing::Packing(const GroupSpec& spec, const GroupLayout& layout) : spec_(spec), layout_(&layout) {
  static_assert(GroupLayout::kAlign % kQuantBlock == 0, "slices are cut between blocks");
  std::int64_t constants = 0;
  for (const auto& placed : layout.tensors()) {
    tensors_.push_back({placed.numel / placed.shape.at(0), constants, 0});
    constants += constants_of(spec, placed);
  }
  constants_.resize(static_cast<std::size_t>(constants));
  if (four_bits()) absmax_.resize(static_cast<std::size_t>(layout.slice() / kQuantBlock));
}

std::int64_t Packing::grain(std::size_t tensor) const noexcept {
  return four_bits() ? kQuantBlock : tensors_[tensor].columns;
}

// --- loading ---------------------------------------------------------------------------------------------------------

void Packing::put(const at::Tensor& segment, int slice, std::size_t tensor, std::int64_t begin, std::int64_t count,
                  const float* values) {
  const auto& placed = layout_->tensors()[tensor];
  const auto refuse = [&] {
    throw RequestError("weight '{}' has a value that is not finite{}: it cannot be quantised", placed.param->name,
                       four_bits() ? "" : " in fp16");
  };
  const std::int64_t at = placed.offset + begin - layout_->slice() * slice;  // of the first value, in the slice
  thread_local std::vector<std::uint8_t> packed;
  if (four_bits()) {
    packed.resize(static_cast<std::size_t>((count + 1) / 2));
    if (!quantize_blocks(spec_.quant, values, count, packed.data(), absmax_.data() + at / kQuantBlock)) refuse();
    write_bytes(segment, at / 2, packed.data(), static_cast<std::int64_t>(packed.size()));
    return;
  }
  const auto& t = tensors_[tensor];
  packed.resize(static_cast<std::size_t>(count));
  auto* codes = reinterpret_cast<std::int8_t*>(packed.data());
  for (std::int64_t row = 0; row < count / t.columns; ++row) {
    const float* from = values + row * t.columns;
    const float scale = row_scale(from, t.columns);
    if (!std::isfinite(scale)) refuse();
    quantize_row(from, t.columns, scale, codes + row * t.columns);
    constants_[static_cast<std::size_t>(t.constants + begin / t.columns + row)] = scale;
  }
  const std::int64_t first = std::max<std::int64_t>(at, 0), last = std::min(at + count, layout_->slice());
  write_bytes(segment, first, codes + (first - at), last - first);
}

std::int64_t Packing::put_constants(std::size_t tensor, const io::PackedTensor& file) {
  from_file_ = true;
  const io::TensorInfo* constants = four_bits() ? file.absmax2 : file.absmax;
  if (constants == nullptr) return 0;
  tensors_[tensor].mean = file.mean;
  file.source->read_f32(*constants, 0, constants->numel(), constants_.data() + tensors_[tensor].constants);
  return 4 * constants->numel();
}

std::int64_t Packing::put_packed(const at::Tensor& segment, const Piece& piece, const io::PackedTensor& file) {
  const std::int64_t bytes = four_bits() ? (piece.count + 1) / 2 : piece.count;
  std::vector<std::uint8_t> packed(static_cast<std::size_t>(bytes));
  io::read_codes(file, four_bits() ? piece.tensor_begin / 2 : piece.tensor_begin, bytes, packed.data());
  write_bytes(segment, four_bits() ? piece.slice_begin / 2 : piece.slice_begin, packed.data(), bytes);
  if (!four_bits()) return bytes;
  const std::int64_t first = piece.tensor_begin / kQuantBlock, blocks = quant_blocks(piece.count);
  const std::int64_t at = piece.slice_begin / kQuantBlock;
  if (!spec_.double_quant) {
    file.source->read_f32(*file.absmax, first, blocks, absmax_.data() + at);
    return bytes + 4 * blocks;
  }
  given_.resize(absmax_.size());
  file.source->read(*file.absmax, first, blocks, given_.data() + at);
  return bytes + blocks;
}

// Every rank does so for all scales of the group, and keeps its own.
void Packing::nest_scales(std::vector<std::uint8_t>& mine, int slice, comm::Communicator& control) {
  const auto own = static_cast<std::int64_t>(absmax_.size());
  std::vector<float> all(absmax_.size() * static_cast<std::size_t>(layout_->world()));
  std::copy(absmax_.begin(), absmax_.end(), all.begin() + own * slice);
  control.all_reduce({all.data(), static_cast<std::int64_t>(all.size()), comm::DType::f32}, comm::ReduceOp::max);
  std::vector<std::uint8_t> codes(all.size());
  for (std::size_t i = 0; i < tensors_.size(); ++i) {
    const auto& placed = layout_->tensors()[i];
    const auto first = placed.offset / kQuantBlock, count = quant_blocks(placed.numel);
    const at::Tensor scales = at::from_blob(all.data() + first, {count}, at::kFloat);
    const at::Tensor mean = at::mean(scales);
    tensors_[i].mean = mean.item<float>();
    quantize_scales(scales.sub(mean).const_data_ptr<float>(), count, codes.data() + first,
                    constants_.data() + tensors_[i].constants);
  }
  mine.assign(codes.begin() + own * slice, codes.begin() + own * (slice + 1));
}

void Packing::settle(const at::Tensor& segment, int slice, comm::Communicator& control) {
  const at::NoGradGuard no_grad;
  if (!four_bits()) {
    control.all_reduce({constants_.data(), static_cast<std::int64_t>(constants_.size()), comm::DType::f32},
                       comm::ReduceOp::max);
  } else if (spec_.double_quant) {
    given_.resize(absmax_.size());
    if (!from_file_) nest_scales(given_, slice, control);
    write_bytes(segment, codes_bytes(), given_.data(), static_cast<std::int64_t>(given_.size()));
  } else {
    write_bytes(segment, codes_bytes(), absmax_.data(), static_cast<std::int64_t>(absmax_.size() * 4));
  }
  absmax_ = {};
  given_ = {};
  device_constants_ = on_device(constants_, spec_.device);
  if (four_bits()) codebook_ = on_device(codebook(spec_.quant), spec_.device);
  if (spec_.double_quant) code8_ = on_device(dynamic_code(), spec_.device);
}

// --- expanding -------------------------------------------------------------------------------------------------------

void Packing::scales_of(const std::uint8_t* segment, const Piece& piece, std::int64_t at, std::int64_t blocks,
                        float* out) const {
  const auto* scales = segment + codes_bytes() + (piece.slice_begin + at) / kQuantBlock * scale_bytes();
  if (!spec_.double_quant) {
    std::memcpy(out, scales, static_cast<std::size_t>(blocks) * 4);
    return;
  }
  const auto& t = tensors_[piece.tensor];
  dequantize_scales(scales, constants_.data() + t.constants, t.mean, (piece.tensor_begin + at) / kQuantBlock, blocks,
                    out);
}

void Packing::expand_piece(const std::uint8_t* segment, const Piece& piece, std::int64_t at, std::int64_t count,
                           float* out) const {
  if (four_bits()) {
    std::array<float, kTask / kQuantBlock> scales;
    for (std::int64_t done = 0; done < count; done += kTask) {
      const auto part = std::min(kTask, count - done);
      scales_of(segment, piece, at + done, quant_blocks(part), scales.data());
      dequantize_blocks(spec_.quant, segment + (piece.slice_begin + at + done) / 2, scales.data(), part, out + done);
    }
    return;
  }
  const auto& t = tensors_[piece.tensor];
  const auto* codes = reinterpret_cast<const std::int8_t*>(segment + piece.slice_begin + at);
  for (std::int64_t done = 0; done < count;) {
    const std::int64_t place = piece.tensor_begin + at + done;
    const std::int64_t part = std::min(count - done, t.columns - place % t.columns);
    dequantize_row(codes + done, part, constants_[static_cast<std::size_t>(t.constants + place / t.columns)],
                   out + done);
    done += part;
  }
}

void Packing::expand_on_host(const at::Tensor& segments, const at::Tensor& out) const {
  struct Task {
    const std::uint8_t* segment;
    Piece piece;
    std::int64_t at, count, to;
  };
  std::vector<Task> tasks;
  const auto bytes = segment_bytes(spec_, layout_->slice());
  for (int s = 0; s < layout_->world(); ++s) {
    for (const auto& piece : layout_->pieces(s)) {
      const auto to = layout_->slice() * s + piece.slice_begin;
      for (std::int64_t at = 0; at < piece.count; at += kTask) {
        tasks.push_back({bytes_of(segments) + bytes * s, piece, at, std::min(kTask, piece.count - at), to + at});
      }
    }
  }
  at::parallel_for(0, static_cast<std::int64_t>(tasks.size()), 1, [&](std::int64_t begin, std::int64_t end) {
    const at::NoGradGuard no_grad;
    std::vector<float> values(out.scalar_type() == at::kFloat ? 0 : kTask);
    for (std::int64_t i = begin; i < end; ++i) {
      const Task& task = tasks[static_cast<std::size_t>(i)];
      float* to = values.empty() ? out.mutable_data_ptr<float>() + task.to : values.data();
      expand_piece(task.segment, task.piece, task.at, task.count, to);
      if (values.empty()) continue;
      out.narrow(0, task.to, task.count).copy_(at::from_blob(values.data(), {task.count}, at::kFloat));
    }
  });
}

// With operations that every device has; each tensor's last block is expanded whole, into the gap behind it.
void Packing::expand_blocks(const at::Tensor& segments, const at::Tensor& out) const {
  const auto bytes = segment_bytes(spec_, layout_->slice());
  for (int s = 0; s < layout_->world(); ++s) {
    const at::Tensor segment = segments.narrow(0, bytes * s, bytes);
    for (const auto& piece : layout_->pieces(s)) {
      for (std::int64_t at = 0; at < piece.count; at += kDeviceTask) {
        const auto first = (piece.slice_begin + at) / kQuantBlock;
        const auto blocks = quant_blocks(std::min(kDeviceTask, piece.count - at));
        const at::Tensor scales = device_scales(segment, piece, first, blocks);
        const at::Tensor packed = segment.narrow(0, first * kQuantBlock / 2, blocks * kQuantBlock / 2);
        const at::Tensor target =
            out.narrow(0, layout_->slice() * s + first * kQuantBlock, blocks * kQuantBlock).view({-1, 2});
        // The even values are the high nibbles.
        for (const int odd : {0, 1}) {
          const at::Tensor code = (odd == 0 ? packed.bitwise_right_shift(4) : packed.bitwise_and(15)).to(at::kInt);
          const at::Tensor values = at::index_select(codebook_, 0, code).view({blocks, kQuantBlock / 2}).mul_(scales);
          target.select(1, odd).copy_(values.view({-1}));
        }
      }
    }
  }
}

// fp32 [blocks, 1], of blocks [first, first + blocks) of the segment, which are the piece's.
at::Tensor Packing::device_scales(const at::Tensor& segment, const Piece& piece, std::int64_t first,
                                  std::int64_t blocks) const {
  const at::Tensor raw = segment.narrow(0, codes_bytes() + first * scale_bytes(), blocks * scale_bytes());
  if (!spec_.double_quant) return raw.view(at::kFloat).unsqueeze(1);
  const auto& t = tensors_[piece.tensor];
  const auto begin = piece.tensor_begin / kQuantBlock + first - piece.slice_begin / kQuantBlock;
  const at::Tensor nested =
      at::arange(begin, begin + blocks, raw.options().dtype(at::kLong)).bitwise_right_shift(8).add_(t.constants);
  static_assert(kNestedBlock == 1 << 8);
  return at::index_select(code8_, 0, raw.to(at::kInt))
      .mul_(at::index_select(device_constants_, 0, nested))
      .add_(t.mean)
      .unsqueeze(1);
}

void Packing::expand_rows(const at::Tensor& segments, const at::Tensor& out) const {
  constexpr double kStep = 7.874015718698502e-3;
  for (std::size_t i = 0; i < tensors_.size(); ++i) {
    const auto& placed = layout_->tensors()[i];
    const auto rows = placed.shape.at(0), columns = tensors_[i].columns;
    const auto at_once = std::max<std::int64_t>(1, kDeviceTask / columns);
    for (std::int64_t row = 0; row < rows; row += at_once) {
      const auto count = std::min(at_once, rows - row);
      const auto at = placed.offset + row * columns;
      const at::Tensor scales = device_constants_.narrow(0, tensors_[i].constants + row, count).unsqueeze(1);
      const at::Tensor codes = segments.narrow(0, at, count * columns).view(at::kChar).view({count, columns});
      out.narrow(0, at, count * columns).view({count, columns}).copy_(codes.to(at::kFloat).mul_(scales).mul_(kStep));
    }
  }
}

void Packing::expand(const at::Tensor& segments, const at::Tensor& out) const {
  const at::NoGradGuard no_grad;
  if (spec_.device.is_cpu()) return expand_on_host(segments, out);
  expand_by_operations(segments, out);
}

void Packing::expand_by_operations(const at::Tensor& segments, const at::Tensor& out) const {
  const at::NoGradGuard no_grad;
  four_bits() ? expand_blocks(segments, out) : expand_rows(segments, out);
}

std::pair<at::Tensor, at::Tensor> Packing::extract(const at::Tensor& segments, std::size_t tensor) const {
  const auto& placed = layout_->tensors()[tensor];
  const auto codes_shape = four_bits() ? std::vector<std::int64_t>{(placed.numel + 1) / 2, 1} : placed.shape;
  at::Tensor codes = at::empty(codes_shape, four_bits() ? at::kByte : at::kChar);
  at::Tensor scales = at::empty({four_bits() ? quant_blocks(placed.numel) : placed.shape.at(0)}, at::kFloat);
  auto* to = static_cast<std::uint8_t*>(codes.mutable_data_ptr());
  const std::int64_t per_byte = four_bits() ? 2 : 1;
  const auto bytes = segment_bytes(spec_, layout_->slice());
  for (int s = 0; s < layout_->world(); ++s) {
    const auto* segment = bytes_of(segments) + bytes * s;
    for (const auto& piece : layout_->pieces(s)) {
      if (piece.tensor != tensor) continue;
      std::memcpy(to + piece.tensor_begin / per_byte, segment + piece.slice_begin / per_byte,
                  static_cast<std::size_t>((piece.count + per_byte - 1) / per_byte));
      if (!four_bits()) continue;
      scales_of(segment, piece, 0, quant_blocks(piece.count),
                scales.mutable_data_ptr<float>() + piece.tensor_begin / kQuantBlock);
    }
  }
  if (!four_bits())
    std::copy_n(constants_.begin() + tensors_[tensor].constants, scales.numel(), scales.mutable_data_ptr<float>());
  return {codes, scales};
}

}  // namespace tessera::shard
