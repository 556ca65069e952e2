#include "tessera/shard/plan.hpp"

#include <algorithm>

#include "shard/group_spec.hpp"
#include "shard/schedule.hpp"
#include "shard/slice_states.hpp"

namespace tessera::shard {

namespace {

struct PlannedGroup {
  GroupSpec spec;
  GroupSizes sizes;
  bool gathered = false;
  int users = 0;
  std::size_t unit = 0;  // it belongs to
  bool shared = false;   // units beside its own borrow it
  int opened = 0;        // lanes of gradients its buffer holds …
  int open_lanes = 0;    // … and those not reduced yet
};

// The engine's step without memory: which pooled bytes are on loan at once, and what is sent.
class Walk {
 public:
  Walk(const PlanRequest& request, std::vector<PlannedGroup>& groups, const GroupUse& use, std::int64_t held)
      : request_(request),
        groups_(groups),
        use_(use),
        schedule_(use, request.engine.prefetch, request.engine.keep_bytes),
        now_(held),
        peak_(held) {}

  // A unit's turn in a pass: whether its weights are gathered for it, and whether gradients come of it.
  struct Call {
    std::size_t unit = 0;
    bool gathers = true;
    bool backward = false;
    std::vector<std::size_t> blocks{};  // of rows, visited inside: calls of their own
  };

  void set_calls(std::vector<Call> calls) {
    calls_ = std::move(calls);
    for (const auto& call : calls_) {
      if (call.gathers) schedule_.note(static_cast<nn::UnitId>(call.unit));
      for (const auto block : call.blocks) schedule_.note(static_cast<nn::UnitId>(block));
    }
    schedule_.close();
  }

  void step(Plan& plan) {
    plan_ = &plan;
    const auto lanes = request_.engine.layer_major;
    for (std::int64_t pass = 0; pass < request_.micro_batches / lanes; ++pass) one_pass(lanes);
    for (const auto& g : groups_) {  // once a step, or once a micro-batch in reproducible mode
      if (!g.spec.fused) continue;
      sent(g);
      if (g.spec.trained)
        plan.reduced_sent += g.sizes.reduce_traffic * (request_.engine.reproducible ? request_.micro_batches : 1);
    }
    for (auto& g : groups_) {
      if (g.spec.trained && !g.spec.fused) let_go(g);
    }
    plan.memory.gathered_peak = peak_;
  }

 private:
  void take(std::int64_t bytes) { peak_ = std::max(peak_, now_ += bytes); }
  void give(std::int64_t bytes) { now_ -= bytes; }
  PlannedGroup& group(int id) { return groups_[static_cast<std::size_t>(id)]; }

  void sent(const PlannedGroup& g) {
    const bool in_node = !g.spec.trained && g.spec.placement == Placement::node && request_.nodes > 1;
    (in_node ? plan_->node_sent : plan_->gathered_sent) += g.sizes.gather_traffic;
  }
  void gather(int id) {
    auto& g = group(id);
    if (g.gathered || use_.bytes[static_cast<std::size_t>(id)] == 0) return;
    g.gathered = true;
    take(g.sizes.gather);
    sent(g);
  }
  void let_go(PlannedGroup& g) {
    if (g.gathered) give(g.sizes.gather);
    g.gathered = false;
  }
  void trim(std::size_t position) {
    std::vector<int> idle;
    for (std::size_t i = 0; i < groups_.size(); ++i) {
      if (groups_[i].users == 0 && groups_[i].gathered) idle.push_back(static_cast<int>(i));
    }
    for (const int id : schedule_.surplus(position, idle)) let_go(group(id));
  }

  void acquire(const std::vector<int>& ids, std::size_t position) {
    for (const int id : ids) {
      ++group(id).users;
      gather(id);
    }
    for (const int id : ids) {
      if (group(id).users == 1) take(group(id).sizes.expanded);
    }
    for (const int id : schedule_.ahead(position)) gather(id);
  }
  void release(const std::vector<int>& ids, std::size_t position) {
    for (const int id : ids) {
      if (--group(id).users == 0) give(group(id).sizes.expanded);
    }
    trim(position);
  }

  void one_pass(int lanes) {
    std::size_t position = 0;
    for (const auto& call : calls_) {
      const auto& ids = use_.of_unit[call.unit];
      if (call.gathers) acquire(ids, ++position);
      for (const auto block : call.blocks) {
        acquire(use_.of_unit[block], ++position);
        release(use_.of_unit[block], position);
      }
      for (int lane = 0; call.backward && lane < lanes_apart(lanes); ++lane) {
        if (lane > 0) finish_reductions();  // the buffer of the lane before is taken again
        open(ids, lanes);
        finish_reductions();
        reduce(call.unit);
      }
      if (call.gathers) release(ids, position);
    }
    for (auto& g : groups_) {
      while (g.open_lanes > 0) {  // its own unit has no backward
        finish_reductions();
        reduce(g);
      }
    }
    finish_reductions();
    trim(position);
  }

  int lanes_apart(int lanes) const { return request_.engine.reproducible ? lanes : 1; }

  void finish_reductions() {
    give(reducing_);
    reducing_ = 0;
  }

  // The gradients of a group that others borrow stay open from its first user's backward to its owner's.
  void open(const std::vector<int>& ids, int lanes) {
    for (const int id : ids) {
      auto& g = group(id);
      if (!g.spec.trained || g.open_lanes > 0) continue;
      g.open_lanes = g.shared ? lanes_apart(lanes) : 1;
      take(g.sizes.grads * g.open_lanes);
      g.opened = g.open_lanes;
    }
  }

  void reduce(std::size_t unit) {
    for (const int id : use_.of_unit[unit]) {
      if (group(id).unit == unit && group(id).open_lanes > 0) reduce(group(id));
    }
  }

  void reduce(PlannedGroup& g) {
    plan_->reduced_sent += g.sizes.reduce_traffic;
    const bool last = --g.open_lanes == 0;
    const auto buffer = g.sizes.grads * g.opened;
    if (g.sizes.wide_grads > 0) {  // of one lane
      take(g.sizes.wide_grads);
      reducing_ += g.sizes.wide_grads;
      if (last) give(buffer);
    } else if (last) {
      reducing_ += buffer;
    }
  }

  const PlanRequest& request_;
  std::vector<PlannedGroup>& groups_;
  const GroupUse& use_;
  Schedule schedule_;
  std::vector<Call> calls_;
  std::int64_t now_, peak_;
  std::int64_t reducing_ = 0;
  Plan* plan_ = nullptr;
};

void add_memory(MemoryReport& memory, const PlannedGroup& g, const GroupLayout& layout, const EngineConfig& config) {
  if (g.spec.trained) {
    memory.master += g.sizes.shard;
    memory.gradients += g.sizes.shard;
    memory.optimizer += moment_bytes(layout, config);
    memory.average += average_bytes(layout, config);
  } else {
    memory.frozen += g.sizes.shard;
  }
  if (g.spec.on_host) memory.host += g.sizes.shard + (g.spec.trained ? state_bytes(layout, config) : 0);
  if (g.spec.fused) memory.held += g.sizes.gather + g.sizes.grads * (config.reproducible ? config.layer_major : 1);
}

}  // namespace

namespace {

// The calls of a pass over units 0 … n - 1, forward and back. `blocks`: the calls that visit each unit's rows.
std::vector<Walk::Call> calls_of(const nn::ModelLayout& layout, const Plan& plan,
                                 const std::vector<std::vector<std::size_t>>& blocks) {
  std::vector<Walk::Call> calls, backward;
  for (std::size_t u = 0; u < layout.units().size(); ++u) {
    const auto& unit = layout.units()[u];
    if (unit.fused || unit.idle) continue;
    calls.push_back({u, true, false, blocks[u]});
    if (!plan.units[u].backward) continue;
    const bool recompute = plan.units[u].policy.recompute;
    Walk::Call back{u, recompute || unit.backward_reads_weights, true, {}};
    if (recompute) back.blocks = blocks[u];
    backward.insert(backward.begin(), std::move(back));
  }
  calls.insert(calls.end(), backward.begin(), backward.end());
  return calls;
}

}  // namespace

Plan make_plan(const nn::ModelLayout& layout, const PlanRequest& request) {
  const JobShape job{request.world, request.nodes};
  const auto weight = static_cast<std::int64_t>(c10::elementSize(scalar_type(request.engine.compute)));
  Plan plan;
  std::vector<PlannedGroup> groups;
  std::vector<std::vector<int>> of_block;        // groups of each block of rows: one each
  std::vector<std::vector<std::size_t>> blocks;  // of each unit: its calls behind those of the units
  const auto row_bytes = row_block_bytes(layout, request.engine);
  GroupUse use;
  use.of_unit.resize(layout.units().size());
  for (std::size_t u = 0; u < layout.units().size(); ++u) {
    const auto& unit = layout.units()[u];
    UnitPlan row;
    row.name = unit.name;
    row.policy = request.engine.policy_of(u);
    row.fused = unit.fused;
    const auto add = [&](const GroupPart& part) {
      const auto cut = part.layout(request.world);
      PlannedGroup g{part.spec, sizes_of(cut, part.spec, job)};
      g.unit = u;
      row.full_bytes += g.sizes.gather;
      row.slice_bytes += g.sizes.shard;
      if (!part.spec.trained) row.frozen_bytes += g.sizes.shard;
      add_memory(plan.memory, g, cut, request.engine);
      use.bytes.push_back(unit.fused ? 0 : g.sizes.gather);
      groups.push_back(std::move(g));
      return static_cast<int>(groups.size()) - 1;
    };
    const auto parts = parts_of(unit, row.policy, request.engine, row_bytes);
    for (const auto& part : parts.whole) {
      const int id = add(part);
      if (!unit.fused) use.of_unit[u].push_back(id);
    }
    blocks.emplace_back();
    for (const auto& part : parts.blocks) {
      blocks.back().push_back(layout.units().size() + of_block.size());
      of_block.push_back({add(part)});
    }
    for (const auto& p : unit.params) {
      row.trained_elements += p->trainable ? p->numel() : 0;
      plan.whole_state += p->numel() * (p->trainable ? 16 : weight);
    }
    row.backward = !unit.fused && !unit.idle && (!request.has_backward || request.has_backward(unit));
    plan.units.push_back(std::move(row));
  }
  for (std::size_t u = 0; u < layout.units().size(); ++u) {
    for (const auto owner : layout.units()[u].borrows) {
      const auto id = static_cast<std::size_t>(owner);
      for (const int lent : use.of_unit.at(id)) groups[static_cast<std::size_t>(lent)].shared = true;
      use.of_unit[u].insert(use.of_unit[u].end(), use.of_unit.at(id).begin(), use.of_unit[id].end());
      blocks[u].insert(blocks[u].end(), blocks[id].begin(), blocks[id].end());
    }
  }
  use.of_unit.insert(use.of_unit.end(), of_block.begin(), of_block.end());
  Walk walk(request, groups, use, plan.memory.held);
  walk.set_calls(calls_of(layout, plan, blocks));
  Plan warm;
  walk.step(warm);  // what stays gathered from the step before
  walk.step(plan);
  return plan;
}

}  // namespace tessera::shard
