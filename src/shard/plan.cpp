#include "tessera/shard/plan.hpp"

#include <algorithm>

#include "shard/group.hpp"

namespace tessera::shard {

namespace {

// The bytes of one unit's groups; the same cuts as Engine::Impl makes.
struct UnitBytes {
  std::int64_t frozen_full = 0, trained_full = 0;    // gathered, compute type
  std::int64_t trained_full32 = 0;                   // fp32 copy that a reduction of a narrower type needs
  std::int64_t frozen_slice = 0, trained_slice = 0;  // frozen in compute type, trained in fp32
  bool whole = true;                                 // nothing to gather: one rank, no cast
};

UnitBytes bytes_of(const nn::Unit& unit, const PlanRequest& request) {
  UnitBytes out;
  const auto compute = unit.fused ? at::kFloat : scalar_type(request.engine.compute);
  const auto size = static_cast<std::int64_t>(c10::elementSize(compute));
  std::vector<nn::Param> frozen, trained;
  for (const auto& p : unit.params) (p->trainable ? trained : frozen).push_back(p);
  if (!frozen.empty()) {
    const GroupLayout layout(frozen, request.world);
    out.frozen_slice = layout.slice() * size;
    if (request.world > 1) out.frozen_full = layout.full() * size;
  }
  if (!trained.empty()) {
    const GroupLayout layout(trained, request.world);
    out.trained_slice = layout.slice() * 4;
    if (request.world > 1 || compute != at::kFloat) {
      out.trained_full = layout.full() * size;
      if (compute != at::kFloat) out.trained_full32 = layout.full() * 4;
    }
  }
  out.whole = out.frozen_full + out.trained_full == 0;
  return out;
}

// One pass as the engine runs it: which pooled bytes are on loan at once.
class PoolWalk {
 public:
  explicit PoolWalk(std::int64_t base) : now_(base), peak_(base) {}
  void take(std::int64_t bytes) { peak_ = std::max(peak_, now_ += bytes); }
  void give(std::int64_t bytes) { now_ -= bytes; }
  std::int64_t peak() const noexcept { return peak_; }

 private:
  std::int64_t now_, peak_;
};

}  // namespace

Plan make_plan(const nn::ModelLayout& layout, const PlanRequest& request) {
  Plan plan;
  std::vector<UnitBytes> bytes;
  std::vector<std::size_t> order;  // of gathers in one pass: forward, then backward
  const auto& units = layout.units();
  for (std::size_t u = 0; u < units.size(); ++u) {
    bytes.push_back(bytes_of(units[u], request));
    const auto& b = bytes.back();
    UnitPlan row{units[u].name, b.frozen_full + b.trained_full, b.frozen_slice + b.trained_slice, 0, false,
                 units[u].fused};
    for (const auto& p : units[u].params) {
      row.trained_elements += p->trainable ? p->numel() : 0;
      plan.whole_state +=
          p->numel() *
          (p->trainable ? 16 : static_cast<std::int64_t>(c10::elementSize(scalar_type(request.engine.compute))));
    }
    row.backward = !units[u].fused && (!request.has_backward || request.has_backward(units[u]));
    plan.memory.frozen += b.frozen_slice;
    plan.memory.master += b.trained_slice;
    plan.memory.gradients += b.trained_slice;
    plan.memory.optimizer += 2 * b.trained_slice;
    if (units[u].fused) plan.memory.held += b.frozen_full + 2 * b.trained_full;
    if (!units[u].fused && request.engine.resident_frozen) plan.memory.resident += b.frozen_full;
    if (!units[u].fused) order.push_back(u);
    plan.units.push_back(std::move(row));
  }
  const auto forward_calls = order.size();
  for (std::size_t i = forward_calls; i-- > 0;) {
    if (plan.units[order[i]].backward) order.push_back(order[i]);
  }

  auto pooled = [&](std::size_t u) {  // what a gather of this unit takes from the pool
    return bytes[u].trained_full + (request.engine.resident_frozen ? 0 : bytes[u].frozen_full);
  };
  PoolWalk pool(plan.memory.held + plan.memory.resident);
  std::vector<bool> gathered(units.size(), false);
  auto gather = [&](std::size_t u) {
    if (gathered[u]) return;
    gathered[u] = true;
    pool.take(pooled(u));
    const auto moved = pooled(u) - pooled(u) / request.world;
    plan.gathered_sent += moved * request.micro_batches;
  };
  std::int64_t reducing = 0;
  for (std::size_t i = 0; i < order.size(); ++i) {
    const auto u = order[i];
    const bool in_backward = i >= forward_calls;
    gather(u);
    if (request.engine.prefetch && i + 1 < order.size()) gather(order[i + 1]);
    if (in_backward && bytes[u].trained_full > 0) {
      const auto wide = bytes[u].trained_full32;
      pool.take(bytes[u].trained_full);  // gradients in the compute type
      pool.give(reducing);               // the reduction before this one ends first
      if (wide > 0) {
        pool.take(wide);
        pool.give(bytes[u].trained_full);
      }
      pool.take(bytes[u].trained_slice);
      reducing = (wide > 0 ? wide : bytes[u].trained_full) + bytes[u].trained_slice;
      plan.reduced_sent +=
          (reducing - bytes[u].trained_slice) / request.world * (request.world - 1) * request.micro_batches;
    }
    if (i + 1 < order.size() && order[i + 1] == u) continue;  // the last of forward is the first of backward
    gathered[u] = false;
    pool.give(pooled(u));
  }
  for (std::size_t u = 0; u < units.size(); ++u) {  // once a step
    if (!units[u].fused || request.world == 1) continue;
    const auto full = bytes[u].frozen_full + bytes[u].trained_full;
    plan.gathered_sent += full / request.world * (request.world - 1);
    plan.reduced_sent += bytes[u].trained_full / request.world * (request.world - 1);
  }
  plan.memory.gathered_peak = pool.peak();
  return plan;
}

}  // namespace tessera::shard
