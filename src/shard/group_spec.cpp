#include "shard/group_spec.hpp"

#include <algorithm>

#include "shard/packing.hpp"
#include "tessera/nn/weighted.hpp"
#include "tessera/shard/moments8.hpp"

namespace tessera::shard {

at::ScalarType scalar_type(ComputeType type) noexcept {
  switch (type) {
    case ComputeType::bf16:
      return at::kBFloat16;
    case ComputeType::f16:
      return at::kHalf;
    case ComputeType::f32:
      break;
  }
  return at::kFloat;
}

int GroupSpec::parts(const JobShape& job) const noexcept {
  if (trained || placement == Placement::world) return job.world;
  return placement == Placement::node ? job.node_size() : 1;
}

namespace {

// Micro-batches that run together share a unit's gather, and would each visit the rows.
bool goes_by_rows(const nn::Unit& unit, const UnitPolicy& policy, const EngineConfig& config) {
  return unit.row_matrix && !unit.row_matrix->trainable && !unit.adapted && !unit.fused && !unit.idle &&
         policy.frozen != Placement::resident && config.layer_major == 1;
}

std::int64_t row_bytes(const nn::ParamState& matrix, const EngineConfig& config) {
  return matrix.numel() / matrix.shape.at(0) * static_cast<std::int64_t>(c10::elementSize(scalar_type(config.compute)));
}

std::vector<GroupPart> blocks_of(const nn::Param& matrix, const GroupSpec& spec, std::int64_t rows_at_once) {
  std::vector<GroupPart> out;
  for (std::int64_t first = 0; first < matrix->shape[0]; first += rows_at_once) {
    out.push_back({{matrix}, spec, RowRange{first, std::min(rows_at_once, matrix->shape[0] - first)}});
  }
  return out;
}

}  // namespace

std::int64_t row_block_bytes(const nn::ModelLayout& layout, const EngineConfig& config) {
  if (config.row_block_bytes > 0) return config.row_block_bytes;
  const auto weight = static_cast<std::int64_t>(c10::elementSize(scalar_type(config.compute)));
  std::int64_t largest = 0;
  for (const auto& unit : layout.units()) {
    std::int64_t frozen = 0;
    for (const auto& p : unit.params) frozen += p->trainable || p == unit.row_matrix ? 0 : p->numel() * weight;
    if (!unit.fused && !unit.idle) largest = std::max(largest, frozen);
  }
  constexpr std::int64_t kLeast = std::int64_t{16} << 20;  // below it a gather's latency counts
  return std::max(largest, kLeast);
}

UnitParts parts_of(const nn::Unit& unit, const UnitPolicy& policy, const EngineConfig& config,
                   std::int64_t row_block_bytes) {
  const bool by_rows = goes_by_rows(unit, policy, config);
  GroupPart frozen, quantised, trained;
  for (const auto& p : unit.params) {
    if (by_rows && p == unit.row_matrix) continue;
    const bool packs = !p->trainable && !unit.fused && config.quantization.covers(p->name);
    (p->trainable ? trained : packs ? quantised : frozen).params.push_back(p);
  }
  // Fused units are small: they stay fp32, so that gradients add up in fp32 over the micro-batches of a step.
  frozen.spec.compute = unit.fused ? at::kFloat : scalar_type(config.compute);
  frozen.spec.device = config.device;
  frozen.spec.fused = unit.fused;
  trained.spec = frozen.spec;
  frozen.spec.placement = policy.frozen;
  frozen.spec.on_host = policy.offload;
  quantised.spec = frozen.spec;
  quantised.spec.quant = config.quantization.kind;
  quantised.spec.double_quant = config.quantization.double_quant;
  trained.spec.trained = true;
  if (config.moments_8bit) trained.spec.align = kMomentBlock;  // no cut goes through a block of codes
  trained.spec.on_host = config.offload_optimizer;
  trained.spec.separate_grads = config.reproducible;
  UnitParts out;
  if (by_rows) {
    auto rows = std::max<std::int64_t>(1, row_block_bytes / row_bytes(*unit.row_matrix, config));
    if (rows > nn::kRowsAtOnce) rows -= rows % nn::kRowsAtOnce;
    out.blocks = blocks_of(unit.row_matrix, frozen.spec, rows);
  }
  if (!frozen.params.empty()) out.whole.push_back(std::move(frozen));
  if (!quantised.params.empty()) out.whole.push_back(std::move(quantised));
  if (!trained.params.empty()) out.whole.push_back(std::move(trained));
  return out;
}

GroupSizes sizes_of(const GroupLayout& layout, const GroupSpec& spec, const JobShape& job) {
  const auto compute = static_cast<std::int64_t>(c10::elementSize(spec.compute));
  const int parts = spec.parts(job);
  GroupSizes out;
  if (spec.quantised()) {
    const auto segment = segment_bytes(spec, layout.slice());
    out.shard = segment * (job.world / parts) + constant_bytes(spec, layout);
    out.expanded = layout.full() * compute;
    if (parts > 1 || spec.on_host) out.gather = segment * job.world;
    out.gather_traffic = segment * (job.world / parts) * (parts - 1);
    return out;
  }
  out.shard = layout.full() / parts * static_cast<std::int64_t>(c10::elementSize(spec.home_type()));
  const bool whole = parts == 1 && !spec.on_host && spec.home_type() == spec.compute;
  if (!whole) {
    out.gather = layout.full() * compute;
    out.gather_traffic = out.gather / parts * (parts - 1);
  }
  if (!spec.trained) return out;
  if (!whole || spec.separate_grads) out.grads = layout.full() * compute;
  if (spec.compute != at::kFloat) out.wide_grads = layout.full() * 4;
  out.reduce_traffic = layout.slice() * 4 * (job.world - 1);
  return out;
}

}  // namespace tessera::shard
