// Filling the slices: from files, each byte by the rank that owns it, or by a parameter's Init; and their digest.
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <atomic>
#include <unordered_set>

#include "shard/digest.hpp"
#include "shard/engine_impl.hpp"
#include "shard/slice_loader.hpp"
#include "tessera/core/error.hpp"
#include "tessera/core/random.hpp"

namespace tessera::shard {

namespace {

std::string shape_text(const std::vector<std::int64_t>& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

enum class Origin : std::uint8_t { file, init, file_then_init, missing, mis_shaped };

Origin origin_of(const nn::ParamState& param, const io::TensorInfo* info, const LoadPolicy& policy) {
  if (info == nullptr) return policy.may_initialize(param) ? Origin::init : Origin::missing;
  if (info->shape == param.shape) return Origin::file;
  // Same rows but fewer of them: a vocabulary before its tokens were added.
  const bool fewer_rows = !info->shape.empty() && info->shape.size() == param.shape.size() &&
                          std::equal(info->shape.begin() + 1, info->shape.end(), param.shape.begin() + 1) &&
                          info->shape[0] < param.shape[0];
  return fewer_rows && policy.may_extend_rows(param) ? Origin::file_then_init : Origin::mis_shaped;
}

// The part of a group that this rank fills and digests; no other rank has it to fill.
struct OwnPart {
  const GroupLayout& layout;
  at::Tensor target;
  std::vector<Piece> pieces;
};

// Whole rows or blocks around the piece of a quantised tensor: rows at its ends are read by two ranks.
Fill quantised_fill(Group& group, const Piece& piece, const io::TensorSource& source) {
  Packing& packing = *group.packing();
  const auto& placed = group.layout().tensors()[piece.tensor];
  const auto grain = packing.grain(piece.tensor);
  const auto begin = piece.tensor_begin / grain * grain;
  const auto end = std::min(placed.numel, (piece.tensor_begin + piece.count + grain - 1) / grain * grain);
  auto put = [&packing, segment = group.loaded(), slice = group.loaded_slice(), tensor = piece.tensor](
                 std::int64_t at, std::int64_t count, const float* values) {
    packing.put(segment, slice, tensor, at, count, values);
  };
  return {placed.param, source.find(placed.param->name), begin, end - begin, {}, std::move(put), grain};
}

const io::PackedTensor* packed_in(const io::TensorSource& source, const std::string& name) {
  const auto* info = source.find(name);
  return info == nullptr ? nullptr : source.packed(*info);
}

// Where the files hold the group in the engine's own form. Throws RequestError when they hold it in another one, or in
// part.
bool is_packed(const GroupLayout& layout, const io::TensorSource& source, const GroupSpec& spec) {
  std::size_t packed = 0;
  for (const auto& tensor : layout.tensors()) {
    const auto& name = tensor.param->name;
    const auto* file = packed_in(source, name);
    if (file == nullptr) continue;
    ++packed;
    if (file->kind == spec.quant && file->double_quant() == spec.double_quant) continue;
    throw RequestError("weight '{}' is quantised in '{}' as {}{}, and asked for as {}{}", name,
                       source.where(*source.find(name)), name_of(file->kind),
                       file->double_quant() ? " with double quantisation" : "", name_of(spec.quant),
                       spec.double_quant ? " with double quantisation" : "");
  }
  if (packed == 0 || packed == layout.tensors().size()) return packed > 0;
  throw RequestError("'{}' and its neighbours are quantised in the files in part only",
                     layout.tensors()[0].param->name);
}

std::int64_t take_packed(Group& group, const io::TensorSource& source) {
  Packing& packing = *group.packing();
  const auto& tensors = group.layout().tensors();
  std::int64_t read = 0;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    read += packing.put_constants(i, *packed_in(source, tensors[i].param->name));
  }
  for (const auto& piece : group.loaded_pieces()) {
    read += packing.put_packed(group.loaded(), piece, *packed_in(source, tensors[piece.tensor].param->name));
  }
  return read;
}

OwnPart own_part(const Group& group) {
  return {group.layout(), group.loaded(), group.loaded_pieces()};
}

// What no piece covers stays zero through the run: it is gathered and reduced along with the rest.
void zero_gaps(const OwnPart& part) {
  std::int64_t at = 0;
  for (const auto& piece : part.pieces) {
    if (piece.slice_begin > at) part.target.narrow(0, at, piece.slice_begin - at).zero_();
    at = piece.slice_begin + piece.count;
  }
  if (at < part.target.numel()) part.target.narrow(0, at, part.target.numel() - at).zero_();
}

}  // namespace

LoadReport Engine::load(const io::TensorSource& source, const LoadPolicy& policy) {
  auto& e = *impl_;
  LoadReport report;
  std::string problems;
  std::unordered_set<std::string> taken;
  for (const auto& unit : e.layout.units()) {
    for (const auto& param : unit.params) {
      const auto* info = source.find(param->name);
      if (info != nullptr) taken.insert(param->name);
      switch (origin_of(*param, info, policy)) {
        case Origin::file:
          ++report.tensors_read;
          break;
        case Origin::init:
          report.initialized.push_back(param->name);
          break;
        case Origin::file_then_init:
          ++report.tensors_read;
          report.extended.push_back(param->name);
          break;
        case Origin::missing:
          problems += fmt::format("\n  missing: {} {}", param->name, shape_text(param->shape));
          break;
        case Origin::mis_shaped:
          problems += fmt::format("\n  shape: {} is {} in {}, the model has {}", param->name, shape_text(info->shape),
                                  source.where(*info), shape_text(param->shape));
          break;
      }
    }
  }
  for (const auto& info : source.tensors()) {
    if (!taken.contains(info.name)) report.unused.push_back(info.name);
  }
  if (!problems.empty()) {
    for (const auto& name : report.unused) problems += fmt::format("\n  unexpected: {}", name);
    throw RequestError("weights do not fit the model:{}", problems);
  }

  const at::NoGradGuard no_grad;
  std::vector<Fill> fills;
  std::int64_t packed_bytes = 0;
  for (const auto& group : e.groups) {
    if (group->packing() != nullptr) {
      if (is_packed(group->layout(), source, group->spec())) {
        packed_bytes += take_packed(*group, source);
        continue;
      }
      for (const auto& piece : group->loaded_pieces()) fills.push_back(quantised_fill(*group, piece, source));
      continue;
    }
    const auto part = own_part(*group);
    zero_gaps(part);
    for (const auto& piece : part.pieces) {
      const auto& param = part.layout.tensors()[piece.tensor].param;
      fills.push_back({param, source.find(param->name), piece.tensor_begin, piece.count,
                       part.target.narrow(0, piece.slice_begin, piece.count)});
    }
  }
  const int threads = policy.threads > 0 ? policy.threads : own_threads(e.fabric.node_size());
  report.bytes_read = packed_bytes + fill_slices(source, std::move(fills), policy.seed, threads, policy.progress);
  return report;
}

std::uint64_t Engine::frozen_digest() const {
  constexpr std::int64_t kChunk = std::int64_t{1} << 19;
  auto& e = *impl_;
  struct Part {
    std::uint64_t key;
    std::int64_t numel, begin;
    at::Tensor values;  // or, of quantised weights, elements [at, at + count) of a piece
    const Packing* packing = nullptr;
    Piece piece{};
    std::int64_t at = 0, count = 0;
  };
  std::vector<Part> parts;
  for (const auto& group : e.groups) {
    if (group->trained()) continue;
    auto part = own_part(*group);
    const Packing* packing = std::as_const(*group).packing();
    if (packing != nullptr) part.target = part.target.cpu();
    for (const auto& piece : part.pieces) {
      const auto& param = *part.layout.tensors()[piece.tensor].param;
      for (std::int64_t at = 0; at < piece.count; at += kChunk) {
        const auto count = std::min(kChunk, piece.count - at);
        parts.push_back({hash_name(param.name), param.numel(), piece.tensor_begin + at,
                         packing != nullptr ? part.target : part.target.narrow(0, piece.slice_begin + at, count),
                         packing, piece, at, count});
      }
    }
  }
  std::atomic<std::uint64_t> digest{0};
  run_parallel(parts.size(), own_threads(e.fabric.node_size()), [&](std::size_t i) {
    const Part& p = parts[i];
    if (p.packing != nullptr) {
      std::vector<float> values(static_cast<std::size_t>(p.count));
      p.packing->expand_piece(p.values.const_data_ptr<std::uint8_t>(), p.piece, p.at, p.count, values.data());
      digest += digest_piece(p.key, p.numel, p.begin, values.data(), p.count);
      return;
    }
    const at::Tensor host = p.values.to(c10::Device(c10::DeviceType::CPU), at::kFloat);
    digest += digest_piece(p.key, p.numel, p.begin, host.const_data_ptr<float>(), host.numel());
  });
  auto total = static_cast<std::int64_t>(digest.load());
  e.fabric.control->all_reduce({&total, 1, comm::DType::i64});
  return static_cast<std::uint64_t>(total);
}

}  // namespace tessera::shard
