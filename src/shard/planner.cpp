#include "tessera/shard/planner.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "shard/planner_cost.hpp"
#include "tessera/core/error.hpp"

namespace tessera::shard {

namespace {

constexpr int kRecomputeLevels = 8;  // between none and all of the units that are worth it

bool trains(const nn::Unit& unit) {
  return std::any_of(unit.params.begin(), unit.params.end(), [](const nn::Param& p) { return p->trainable; });
}

const char* word(Placement placement) {
  switch (placement) {
    case Placement::resident:
      return "resident on every rank";
    case Placement::node:
      return "whole per node";
    case Placement::world:
      break;
  }
  return "cut over all ranks";
}

}  // namespace

std::string memory_text(std::int64_t bytes) {
  const auto value = static_cast<double>(bytes);
  return bytes >= std::int64_t{1} << 30 ? fmt::format("{:.2f} GiB", value / (1 << 30))
                                        : fmt::format("{:.1f} MiB", value / (1 << 20));
}

struct Planner::Candidate {
  Placement frozen = Placement::world;
  std::size_t recomputed = 0;  // the first so many heavy units
  bool offload_optimizer = false;
  bool offload_frozen = false;
  int prefetch = 0;
};

Planner::Planner(const nn::ModelLayout& layout, PlannerRequest request)
    : layout_(layout), request_(std::move(request)) {
  if (request_.work.units.size() != layout.units().size()) {
    throw RunError("shard: the workload has {} units, the model {}", request_.work.units.size(), layout.units().size());
  }
}

std::vector<std::size_t> Planner::heavy_units() const {
  std::vector<std::size_t> out;
  for (std::size_t u = 0; u < layout_.units().size(); ++u) {
    const auto& unit = layout_.units()[u];
    const auto& work = request_.work.units[u];
    if (unit.fused || unit.idle || unit.light) continue;
    if (request_.has_backward && !request_.has_backward(unit)) continue;
    if (work.graph > 2 * work.inputs) out.push_back(u);
  }
  return out;
}

// The first units of forward are those recomputed: what the last ones keep is free again before backward gets there.
EngineConfig Planner::config_of(const Candidate& candidate) const {
  EngineConfig config = request_.engine;
  config.policy.frozen = candidate.frozen;
  config.policy.offload = candidate.offload_frozen;
  config.policy.recompute = false;
  config.offload_optimizer = candidate.offload_optimizer;
  config.prefetch = candidate.prefetch;
  config.keep_bytes = request_.choices.keep_bytes.value_or(0);
  config.units.assign(layout_.units().size(), config.policy);
  if (request_.choices.recompute) {
    for (std::size_t u = 0; u < config.units.size(); ++u) config.units[u].recompute = request_.choices.recompute->at(u);
    return config;
  }
  const auto heavy = heavy_units();
  for (std::size_t i = 0; i < candidate.recomputed; ++i) config.units[heavy[i]].recompute = true;
  if (config.reproducible && config.layer_major > 1) {  // whose micro-batches' gradients must not meet in autograd
    for (std::size_t u = 0; u < config.units.size(); ++u) {
      if (!layout_.units()[u].fused && trains(layout_.units()[u])) config.units[u].recompute = true;
    }
  }
  return config;
}

RunPlan Planner::assess(const EngineConfig& config) const {
  RunPlan out;
  out.engine = config;
  PlanRequest request;
  request.world = request_.world;
  request.nodes = request_.nodes;
  request.engine = config;
  request.micro_batches = request_.micro_batches;
  request.has_backward = request_.has_backward;
  out.plan = make_plan(layout_, request);
  out.memory = memory_of(request_, config, out.plan);
  out.time = time_of(request_, config, out.plan);
  return out;
}

// Of one placement: as little recomputation as the budget allows.
std::optional<RunPlan> Planner::best_of(Candidate candidate, std::int64_t* smallest) const {
  const std::size_t heavy = heavy_units().size();
  std::vector<std::size_t> levels;
  if (request_.choices.recompute) {
    levels = {0};
  } else if (request_.choices.recompute_fraction) {
    levels = {static_cast<std::size_t>(
        std::min(1.0, *request_.choices.recompute_fraction) * static_cast<double>(heavy) + 0.5)};
  } else {
    for (std::size_t i = 0; i <= kRecomputeLevels; ++i) {
      const auto level = (heavy * i + kRecomputeLevels - 1) / kRecomputeLevels;
      if (levels.empty() || level != levels.back()) levels.push_back(level);
    }
  }
  candidate.prefetch = request_.choices.prefetch.value_or(request_.engine.prefetch);
  auto try_out = [&]() -> std::optional<RunPlan> {
    auto plan = assess(config_of(candidate));
    *smallest = std::min(*smallest, plan.memory.total());
    if (!request_.budget || plan.memory.total() <= *request_.budget) return plan;
    return std::nullopt;
  };
  for (const auto level : levels) {
    candidate.recomputed = level;
    if (auto plan = try_out()) return plan;
  }
  if (request_.choices.prefetch || candidate.prefetch == 0) return std::nullopt;
  candidate.prefetch = 0;
  return try_out();
}

std::vector<Planner::Candidate> Planner::offload_levels() const {
  std::vector<Candidate> out;
  const bool elsewhere = !request_.engine.device.is_cpu();  // on a CPU host memory is the same memory
  for (const auto& [optimizer, frozen] : {std::pair{false, false}, {true, false}, {true, true}, {false, true}}) {
    if (optimizer != request_.choices.offload_optimizer.value_or(optimizer && elsewhere)) continue;
    if (frozen != request_.choices.offload_frozen.value_or(frozen && elsewhere)) continue;
    out.push_back({Placement::world, 0, optimizer, frozen, 0});
  }
  return out;
}

RunPlan Planner::choose() const {
  std::vector<Placement> placements{Placement::resident, Placement::node, Placement::world};
  if (request_.choices.frozen) placements = {*request_.choices.frozen};
  auto smallest = std::numeric_limits<std::int64_t>::max();
  for (auto candidate : offload_levels()) {
    std::optional<RunPlan> best;
    for (const auto placement : placements) {
      if (placement == Placement::node && request_.nodes == 1 && !request_.choices.frozen) continue;
      candidate.frozen = placement;
      auto plan = best_of(candidate, &smallest);
      if (plan && (!best || plan->time.step < 0.995 * best->time.step)) best = std::move(plan);
    }
    if (!best) continue;
    spend_rest(*best);
    best->why = reasons(*best);
    return std::move(*best);
  }
  throw RequestError(
      "--memory_budget: {} a rank cannot hold this run, the smallest budget that can is {}; raise it, use more ranks, "
      "or make the micro-batch smaller",
      memory_text(*request_.budget), memory_text(smallest));
}

// What the budget leaves keeps gathered weights from one use to the next.
void Planner::spend_rest(RunPlan& plan) const {
  const bool moves = plan.plan.gathered_sent + plan.plan.node_sent > 0;
  if (request_.choices.keep_bytes || !moves) return;
  std::int64_t whole = 0, largest = 0;
  for (const auto& unit : plan.plan.units) {
    whole += unit.full_bytes;
    largest = std::max(largest, unit.full_bytes);
  }
  const auto rest = request_.budget ? *request_.budget - plan.memory.total() : whole;
  if (rest < largest) return;
  auto config = plan.engine;
  config.keep_bytes = std::min(rest, whole);
  auto richer = assess(config);
  const bool less = richer.plan.gathered_sent + richer.plan.node_sent < plan.plan.gathered_sent + plan.plan.node_sent;
  if (less && (!request_.budget || richer.memory.total() <= *request_.budget)) plan = std::move(richer);
}

// What the plan would hold with its frozen weights resident.
std::int64_t Planner::resident_total(const RunPlan& plan) const {
  auto config = plan.engine;
  for (auto& unit : config.units) unit.frozen = Placement::resident;
  return assess(config).memory.total();
}

std::vector<std::string> Planner::reasons(const RunPlan& plan) const {
  std::vector<std::string> out;
  const auto& config = plan.engine;
  const auto budget =
      request_.budget ? "of a budget of " + memory_text(*request_.budget) : std::string("without a limit");
  const auto total = memory_text(plan.memory.total());
  std::string line = fmt::format("frozen weights {}", word(config.policy.frozen));
  if (request_.choices.frozen) {
    line += ", as asked";
  } else if (config.policy.frozen == Placement::resident) {
    line += fmt::format(": {}, gathered once in the run; with them the run takes {} {}",
                        memory_text(plan.plan.memory.frozen), total, budget);
  } else {
    line += fmt::format(": {} a rank; resident the run would take {} {}", memory_text(plan.plan.memory.frozen),
                        memory_text(resident_total(plan)), budget);
  }
  out.push_back(line);

  std::size_t recomputed = 0, through = 0;
  for (const auto& unit : plan.plan.units) {
    recomputed += unit.backward && unit.policy.recompute ? 1 : 0;
    through += unit.backward ? 1 : 0;
  }
  line = fmt::format("{} of {} units with a backward recomputed", recomputed, through);
  if (request_.choices.recompute || request_.choices.recompute_fraction) {
    line += ", as asked";
  } else if (recomputed == 0) {
    line += fmt::format(": all activations of a micro-batch fit, {}", memory_text(plan.memory.activations));
  } else {
    auto kept = config;
    for (auto& unit : kept.units) unit.recompute = false;
    line += fmt::format(": keeping all activations the run would take {} {}", memory_text(assess(kept).memory.total()),
                        budget);
  }
  out.push_back(line);

  if (config.prefetch < request_.engine.prefetch && !request_.choices.prefetch) {
    out.push_back("nothing gathered ahead: the budget has no room for two units");
  }
  if (config.keep_bytes > 0) {
    out.push_back(fmt::format("gathered weights kept between uses, up to {}{}", memory_text(config.keep_bytes),
                              request_.choices.keep_bytes ? ", as asked" : ": the budget leaves room"));
  }
  if (config.offload_optimizer) {
    out.push_back(fmt::format("masters and moments in host memory{}",
                              request_.choices.offload_optimizer ? ", as asked" : ": nothing else fits"));
  }
  if (config.policy.offload) {
    out.push_back(fmt::format("frozen weights in host memory{}",
                              request_.choices.offload_frozen ? ", as asked" : ": nothing else fits"));
  }
  return out;
}

}  // namespace tessera::shard
