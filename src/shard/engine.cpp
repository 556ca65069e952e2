#include "tessera/shard/engine.hpp"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/dot.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros_like.h>

#include <chrono>
#include <cmath>

#include "shard/engine_impl.hpp"
#include "tessera/core/error.hpp"

namespace tessera::shard {

Engine::Impl::Impl(const nn::ModelLayout& layout_in, comm::Fabric fabric_in, EngineConfig config_in)
    : layout(layout_in), fabric(fabric_in), config(config_in), pool(config_in.device) {
  const auto compute = scalar_type(config.compute);
  for (const auto& unit : layout.units()) {
    UnitState state;
    state.fused = unit.fused;
    state.adapted = unit.adapted;
    std::vector<nn::Param> frozen, trained;
    for (const auto& p : unit.params) (p->trainable ? trained : frozen).push_back(p);
    // Fused units are small: they stay fp32, so that gradients add up in fp32 over the micro-batches of a step.
    const auto type = unit.fused ? at::kFloat : compute;
    for (const bool is_trained : {false, true}) {
      auto& params = is_trained ? trained : frozen;
      if (params.empty()) continue;
      state.groups.push_back(
          std::make_unique<Group>(params, is_trained, type, config.device, fabric.rank(), fabric.size()));
    }
    state.trained = !trained.empty();
    units_.push_back(std::move(state));
  }
  for (auto& unit : units_) {
    for (auto& group : unit.groups) {
      if (!group->trained()) continue;
      TrainedSlice slice;
      slice.layout = &group->layout();
      slice.pieces = group->layout().pieces(fabric.rank());
      slice.master = group->shard();
      slice.grad = group->grad_shard();
      slice.exp_avg = at::zeros_like(slice.master);
      slice.exp_avg_sq = at::zeros_like(slice.master);
      trained_slices.push_back(std::move(slice));
    }
  }
  anchor = at::ones({1}, at::TensorOptions().device(config.device)).set_requires_grad(true);
}

void Engine::Impl::timed_wait(const std::function<void()>& wait) {
  const auto start = std::chrono::steady_clock::now();
  wait();
  comm_wait_s += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

void Engine::Impl::gather(UnitState& unit) {
  for (auto& group : unit.groups) group->start_gather(*fabric.gather, pool);
}

void Engine::Impl::let_go(UnitState& unit) {
  for (auto& group : unit.groups) {
    if (!keeps(*group)) group->release();
  }
}

void Engine::Impl::follow_trace(nn::UnitId unit) {
  if (pass == Pass::free_order) return;
  auto& trace = traces[pass];
  if (!trace.recorded) {
    trace.order.push_back(unit);
  } else if (position >= trace.order.size() || trace.order[position] != unit) {
    throw RunError(
        "shard: unit '{}' is call {} of this pass, but the recorded order has {} there; the units a model runs "
        "must not depend on its batch",
        name(unit), position,
        position < trace.order.size() ? "'" + name(trace.order[position]) + "'" : std::string("its end"));
  }
  ++position;
}

void Engine::Impl::prefetch_next() {
  if (!config.prefetch || pass == Pass::free_order) return;
  const auto& trace = traces[pass];
  if (trace.recorded && position < trace.order.size()) gather(state(trace.order[position]));
}

void Engine::Impl::acquire(nn::UnitId unit) {
  auto& s = state(unit);
  if (s.fused) return;  // bound from begin_step to end_step
  if (s.users++ > 0) return;
  follow_trace(unit);
  gather(s);
  timed_wait([&] {
    for (auto& group : s.groups) group->finish_gather();
  });
  for (auto& group : s.groups) group->bind_params();
  prefetch_next();
}

void Engine::Impl::release(nn::UnitId unit) {
  auto& s = state(unit);
  if (s.fused || --s.users > 0) return;
  for (auto& group : s.groups) group->unbind_params();
  // The last unit of forward is the first of backward: what the next call uses stays.
  if (pass != Pass::free_order) {
    const auto& trace = traces[pass];
    if (trace.recorded && position < trace.order.size() && trace.order[position] == unit) return;
  }
  let_go(s);
}

void Engine::Impl::open_grads(UnitState& unit) {
  for (auto& group : unit.groups) group->open_grads(pool);
}

void Engine::Impl::start_reduce(UnitState& unit) {
  finish_reductions();  // one in flight: it overlaps the next unit's backward and bounds the memory
  for (auto& group : unit.groups) {
    if (!group->grads_open()) continue;
    group->start_reduce(*fabric.reduce, pool);
    if (group->reducing()) reducing.push_back(group.get());
  }
}

void Engine::Impl::finish_reductions() {
  timed_wait([&] {
    for (Group* group : reducing) group->finish_reduce();
  });
  reducing.clear();
}

void Engine::Impl::enter_backward(nn::UnitId unit) {
  auto& s = state(unit);
  if (s.in_backward) throw RunError("shard: unit '{}' entered backward twice", name(unit));
  s.in_backward = true;
  acquire(unit);
  open_grads(s);
}

void Engine::Impl::leave_backward(nn::UnitId unit) {
  auto& s = state(unit);
  if (!s.in_backward) return;
  s.in_backward = false;
  start_reduce(s);
  release(unit);
}

// ---------------------------------------------------------------------------------------------------------------------

Engine::Engine(const nn::ModelLayout& layout, comm::Fabric fabric, EngineConfig config)
    : impl_(std::make_unique<Impl>(layout, fabric, config)) {}

Engine::~Engine() {
  for (auto& unit : impl_->units_) {
    for (auto& group : unit.groups) group->unbind_params();
  }
}

void Engine::begin_step(bool with_gradients) {
  auto& e = *impl_;
  for (auto& unit : e.units_) {
    if (!unit.fused) continue;
    e.gather(unit);
    for (auto& group : unit.groups) {
      group->finish_gather();
      group->bind_params();
    }
    if (with_gradients) e.open_grads(unit);
  }
}

void Engine::begin_pass(Pass pass) {
  impl_->pass = pass;
  impl_->position = 0;
}

void Engine::end_pass() {
  auto& e = *impl_;
  e.finish_reductions();
  if (e.pass != Pass::free_order) {
    auto& trace = e.traces[e.pass];
    if (trace.recorded && e.position != trace.order.size()) {
      throw RunError(
          "shard: the pass ended after {} of {} recorded units, before '{}'; the units a model runs must not "
          "depend on its batch",
          e.position, trace.order.size(), e.name(trace.order[e.position]));
    }
    trace.recorded = true;
  }
  for (auto& unit : e.units_) {
    if (!unit.fused && unit.users == 0) e.let_go(unit);
  }
  e.pass = Pass::free_order;
  e.position = 0;
}

nn::Tensors Engine::run(nn::UnitId unit, const nn::Tensors& inputs, const nn::UnitFn& fn) {
  auto& e = *impl_;
  auto& s = e.state(unit);
  bool needs_graph = at::GradMode::is_enabled() && (s.trained || s.adapted);
  for (const auto& t : inputs)
    needs_graph = needs_graph || (at::GradMode::is_enabled() && t.defined() && t.requires_grad());

  e.acquire(unit);
  nn::Tensors outputs;
  if (!needs_graph) {
    const at::NoGradGuard no_grad;
    outputs = fn(inputs);
  } else if (e.config.checkpoint_activations) {
    outputs = run_checkpointed(e, unit, inputs, fn, e.anchor);
  } else {
    outputs = mark_outputs(e, unit, fn(mark_inputs(e, unit, inputs)));
  }
  e.release(unit);
  return outputs;
}

void Engine::backward(const at::Tensor& loss) {
  auto& e = *impl_;
  run_backward(loss);
  e.anchor.mutable_grad() = at::Tensor();
  // Units whose inputs carry no gradient have nothing that would end their backward; they close here, in layout order.
  for (std::size_t i = 0; i < e.units_.size(); ++i) e.leave_backward(static_cast<nn::UnitId>(i));
  e.finish_reductions();
}

void Engine::reduce_held() {
  auto& e = *impl_;
  for (auto& unit : e.units_) {
    if (!unit.fused) continue;
    e.start_reduce(unit);
  }
  e.finish_reductions();
}

void Engine::end_step() {
  auto& e = *impl_;
  const at::NoGradGuard no_grad;
  for (auto& slice : e.trained_slices) slice.grad.zero_();
  for (auto& unit : e.units_) {
    if (!unit.fused) continue;
    for (auto& group : unit.groups) group->unbind_params();
    e.let_go(unit);
  }
}

double Engine::grad_norm() const {
  const at::NoGradGuard no_grad;
  double sum = 0;
  for (const auto& slice : impl_->trained_slices) {
    constexpr std::int64_t kBlock = 1 << 16;  // fp32 within a block, fp64 across blocks
    for (std::int64_t at = 0; at < slice.grad.numel(); at += kBlock) {
      const auto part = slice.grad.narrow(0, at, std::min(kBlock, slice.grad.numel() - at));
      sum += at::dot(part, part).item<double>();
    }
  }
  impl_->fabric.control->all_reduce({&sum, 1, comm::DType::f64});
  return std::sqrt(sum);
}

std::vector<TrainedSlice>& Engine::trained() noexcept {
  return impl_->trained_slices;
}

void Engine::with_gathered(nn::UnitId unit, bool exact, const std::function<void()>& fn) {
  auto& e = *impl_;
  auto& s = e.state(unit);
  if (s.users > 0) throw RunError("shard: unit '{}' is in use while it should be gathered alone", e.name(unit));
  const at::NoGradGuard no_grad;
  const auto compute = scalar_type(e.config.compute);
  std::vector<std::pair<BufferPool::Block, at::Tensor>> masters;
  for (auto& group : s.groups) {
    if (!exact || !group->trained() || compute == at::kFloat || s.fused) {
      group->start_gather(*e.fabric.gather, e.pool);
      group->finish_gather();
      group->bind_params();
      continue;
    }
    auto block = e.pool.take(group->layout().full() * 4);
    const at::Tensor full = at::from_blob(block.data(), {group->layout().full()}, group->shard().options());
    e.fabric.gather->all_gather(buffer_of(group->shard()), buffer_of(full));
    for (const auto& t : group->layout().tensors())
      t.param->bind(full.narrow(0, t.offset, t.numel).view(t.param->shape));
    masters.emplace_back(std::move(block), full);
  }
  fn();
  for (auto& group : s.groups) group->unbind_params();
  if (!s.fused) e.let_go(s);
  if (s.fused) {
    for (auto& group : s.groups) group->release();
  }
}

void Engine::with_gradients(nn::UnitId unit, const std::function<void(const nn::ParamState&, const at::Tensor&)>& fn) {
  auto& e = *impl_;
  const at::NoGradGuard no_grad;
  for (auto& group : e.state(unit).groups) {
    if (!group->trained()) continue;
    auto block = e.pool.take(group->layout().full() * 4);
    const at::Tensor full = at::from_blob(block.data(), {group->layout().full()}, group->shard().options());
    e.fabric.gather->all_gather(buffer_of(group->grad_shard()), buffer_of(full));
    for (const auto& t : group->layout().tensors())
      fn(*t.param, full.narrow(0, t.offset, t.numel).view(t.param->shape));
  }
}

MemoryReport Engine::memory() const {
  MemoryReport report;
  for (const auto& unit : impl_->units_) {
    for (const auto& group : unit.groups) {
      const auto bytes = static_cast<std::int64_t>(group->shard().nbytes());
      const auto full = group->layout().full() * static_cast<std::int64_t>(group->shard().element_size());
      if (group->trained()) {
        report.master += bytes;
        report.gradients += bytes;
        report.optimizer += 2 * bytes;
      } else {
        report.frozen += bytes;
      }
      if (group->whole()) continue;
      if (unit.fused) report.held += group->trained() ? 2 * full : full;
      if (impl_->keeps(*group)) report.resident += full;
    }
  }
  report.gathered_peak = impl_->pool.peak();
  return report;
}

void Engine::reset_peaks() {
  impl_->pool.reset_peak();
}
const nn::ModelLayout& Engine::layout() const noexcept {
  return impl_->layout;
}
const comm::Fabric& Engine::fabric() const noexcept {
  return impl_->fabric;
}
const EngineConfig& Engine::config() const noexcept {
  return impl_->config;
}
double Engine::take_comm_wait() {
  return std::exchange(impl_->comm_wait_s, 0.0);
}

}  // namespace tessera::shard
