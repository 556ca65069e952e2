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
  for (const auto& group : e.groups) {
    const auto part = own_part(*group);
    zero_gaps(part);
    for (const auto& piece : part.pieces) {
      const auto& param = part.layout.tensors()[piece.tensor].param;
      fills.push_back(
          {param, source.find(param->name), piece.tensor_begin, part.target.narrow(0, piece.slice_begin, piece.count)});
    }
  }
  const int threads = policy.threads > 0 ? policy.threads : own_threads(e.fabric.node_size());
  report.bytes_read = fill_slices(source, std::move(fills), policy.seed, threads, policy.progress);
  return report;
}

std::uint64_t Engine::frozen_digest() const {
  constexpr std::int64_t kChunk = std::int64_t{1} << 19;
  auto& e = *impl_;
  struct Part {
    std::uint64_t key;
    std::int64_t numel, begin;
    at::Tensor values;
  };
  std::vector<Part> parts;
  for (const auto& group : e.groups) {
    if (group->trained()) continue;
    const auto part = own_part(*group);
    for (const auto& piece : part.pieces) {
      const auto& param = *part.layout.tensors()[piece.tensor].param;
      for (std::int64_t at = 0; at < piece.count; at += kChunk) {
        parts.push_back({hash_name(param.name), param.numel(), piece.tensor_begin + at,
                         part.target.narrow(0, piece.slice_begin + at, std::min(kChunk, piece.count - at))});
      }
    }
  }
  std::atomic<std::uint64_t> digest{0};
  run_parallel(parts.size(), own_threads(e.fabric.node_size()), [&](std::size_t i) {
    const Part& p = parts[i];
    const at::Tensor host = p.values.to(c10::Device(c10::DeviceType::CPU), at::kFloat);
    digest += digest_piece(p.key, p.numel, p.begin, host.const_data_ptr<float>(), host.numel());
  });
  auto total = static_cast<std::int64_t>(digest.load());
  e.fabric.control->all_reduce({&total, 1, comm::DType::i64});
  return static_cast<std::uint64_t>(total);
}

}  // namespace tessera::shard
