#include "shard/planner_cost.hpp"

#include <algorithm>

namespace tessera::shard {

namespace {

double over(double amount, double rate) {
  return rate > 0 ? amount / rate : 0.0;
}

constexpr double kGiga = 1e9;
constexpr double kTera = 1e12;

}  // namespace

std::int64_t activation_peak(const Plan& plan, const Workload& work, int lanes, bool heap) {
  std::int64_t live = 0, peak = 0, most_live = 0, most_forward = 0, most_backward = 0;
  auto kept = [&](std::size_t u) {
    const auto& unit = plan.units[u];
    if (!unit.backward) return std::int64_t{0};
    return lanes * (unit.policy.recompute ? work.units[u].inputs : work.units[u].graph);
  };
  for (std::size_t u = 0; u < plan.units.size(); ++u) {
    live += kept(u);
    most_forward = std::max(most_forward, work.units[u].forward_extra);
    peak = std::max(peak, live + work.units[u].forward_extra);
  }
  most_live = live;
  for (std::size_t u = plan.units.size(); u-- > 0;) {
    const auto& unit = plan.units[u];
    if (!unit.backward) continue;
    const auto& w = work.units[u];
    const auto extra = w.backward_extra + (unit.policy.recompute ? w.graph - w.inputs : 0);
    most_backward = std::max(most_backward, extra);
    peak = std::max(peak, live + extra);
    live -= kept(u);
  }
  return heap ? (most_live + most_forward + most_backward) * 13 / 10 : peak;
}

MemoryEstimate memory_of(const PlannerRequest& request, const EngineConfig& config, const Plan& plan) {
  MemoryEstimate m;
  m.baseline = request.baseline;
  m.frozen = plan.memory.frozen;
  m.master = plan.memory.master;
  m.gradients = plan.memory.gradients;
  m.optimizer = plan.memory.optimizer;
  m.average = plan.memory.average;
  m.gathered = plan.memory.gathered_peak;
  m.activations = activation_peak(plan, request.work, config.layer_major, config.device.is_cpu());
  m.read_ahead = request.work.batches;
  m.batches = config.device.is_cpu() ? m.read_ahead : request.work.batch * config.layer_major;
  const auto copied = request.snapshot ? m.master + m.optimizer + m.average : 0;
  if (config.device.is_cpu()) {
    m.snapshot = copied;
    return m;
  }
  m.host = plan.memory.host + copied + m.read_ahead;
  if (config.offload_optimizer) m.master = m.optimizer = m.average = 0;
  for (const auto& unit : plan.units) {
    if (unit.policy.offload) m.frozen -= unit.frozen_bytes;
  }
  return m;
}

TimeEstimate time_of(const PlannerRequest& request, const EngineConfig& config, const Plan& plan) {
  const auto& rates = request.rates;
  const auto passes = static_cast<double>(request.micro_batches);
  double products = 0, again = 0, touched = 0, offloaded = 0;
  for (std::size_t u = 0; u < plan.units.size(); ++u) {
    const auto& unit = plan.units[u];
    const auto& w = request.work.units[u];
    products += w.forward_flop + (unit.backward ? w.backward_flop : 0.0);
    touched += w.forward_touched * (unit.backward ? 3.0 : 1.0);
    if (unit.policy.offload) offloaded += static_cast<double>(unit.frozen_bytes) * (unit.backward ? 2.0 : 1.0);
    if (!unit.backward || !unit.policy.recompute) continue;
    again += w.forward_flop;
    touched += w.forward_touched;
  }
  TimeEstimate t;
  t.products = over(passes * products, rates.tflops * kTera);
  t.recompute = over(passes * again, rates.tflops * kTera);
  t.other = over(passes * touched, rates.memory_gbs * kGiga);
  // A step reads and writes master, moments and average, reads the gradient for the norm and the update and zeroes it.
  const auto states = static_cast<double>(plan.memory.master + plan.memory.optimizer + plan.memory.average);
  t.optimizer = over(2.0 * states + 3.0 * static_cast<double>(plan.memory.gradients), rates.memory_gbs * kGiga);
  const double world_gbs = request.nodes > 1 ? rates.link_gbs : rates.node_link_gbs;
  t.gather = over(static_cast<double>(plan.gathered_sent), world_gbs * kGiga);
  t.node_gather = over(static_cast<double>(plan.node_sent), rates.node_link_gbs * kGiga);
  t.reduce = over(static_cast<double>(plan.reduced_sent), world_gbs * kGiga);
  if (!config.device.is_cpu()) {
    const auto moved = config.offload_optimizer ? 2.0 * static_cast<double>(plan.memory.master) : 0.0;
    t.offload = over(passes * offloaded + moved, rates.host_link_gbs * kGiga);
  }
  const double arithmetic = t.products + t.recompute + t.other;
  const double moving = t.gather + t.node_gather + t.reduce + t.offload;
  t.step = (rates.overlap ? std::max(arithmetic, moving) : arithmetic + moving) + t.optimizer;
  return t;
}

}  // namespace tessera::shard
