#include "shard/group_spec.hpp"

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

std::vector<GroupPart> parts_of(const nn::Unit& unit, const UnitPolicy& policy, const EngineConfig& config) {
  GroupPart frozen, trained;
  for (const auto& p : unit.params) (p->trainable ? trained : frozen).params.push_back(p);
  // Fused units are small: they stay fp32, so that gradients add up in fp32 over the micro-batches of a step.
  frozen.spec.compute = unit.fused ? at::kFloat : scalar_type(config.compute);
  frozen.spec.device = config.device;
  frozen.spec.fused = unit.fused;
  trained.spec = frozen.spec;
  frozen.spec.placement = policy.frozen;
  frozen.spec.on_host = policy.offload;
  trained.spec.trained = true;
  trained.spec.on_host = config.offload_optimizer;
  trained.spec.separate_grads = config.reproducible;
  std::vector<GroupPart> out;
  if (!frozen.params.empty()) out.push_back(std::move(frozen));
  if (!trained.params.empty()) out.push_back(std::move(trained));
  return out;
}

GroupSizes sizes_of(const GroupLayout& layout, const GroupSpec& spec, const JobShape& job) {
  const auto compute = static_cast<std::int64_t>(c10::elementSize(spec.compute));
  const int parts = spec.parts(job);
  GroupSizes out;
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
