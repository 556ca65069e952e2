// How units come and go: gathers, releases, reductions, and the order they follow.
#include <chrono>

#include "shard/engine_impl.hpp"
#include "tessera/core/error.hpp"

namespace tessera::shard {

void Engine::Impl::span(TraceLog::Row row, std::string_view what, TraceLog::Clock::time_point start) {
  if (trace != nullptr) trace->add(row, what, start, TraceLog::Clock::now());
}

void Engine::Impl::timed_wait(std::string_view what, const std::function<void()>& wait) {
  const auto start = TraceLog::Clock::now();
  wait();
  comm_wait_s += std::chrono::duration<double>(TraceLog::Clock::now() - start).count();
  span(TraceLog::Row::wait, what, start);
}

void Engine::Impl::note(Event event, int id) {
  events.push_back(static_cast<std::uint32_t>(id) << 1 | (event == Event::reduce ? 1U : 0U));
}

Schedule* Engine::Impl::schedule() {
  if (pass == Pass::free_order) return nullptr;
  return &schedules.try_emplace(pass, use, config.prefetch, config.keep_bytes).first->second;
}

void Engine::Impl::gather(int id) {
  auto& g = group(id);
  if (!g.released()) return;
  note(Event::gather, id);
  issued[static_cast<std::size_t>(id)] = TraceLog::Clock::now();
  g.start_gather(pool);
}

void Engine::Impl::follow(nn::UnitId unit) {
  auto* order = schedule();
  if (order == nullptr) return;
  if (!order->recorded()) {
    order->note(unit);
  } else if (position >= order->order().size() || order->order()[position] != unit) {
    throw RunError(
        "shard: unit '{}' is call {} of this pass, but the recorded order has {} there; the units a model runs "
        "must not depend on its batch",
        name(unit), position,
        position < order->order().size() ? "'" + name(order->order()[position]) + "'" : std::string("its end"));
  }
  ++position;
}

void Engine::Impl::acquire(nn::UnitId unit) {
  auto& s = state(unit);
  if (s.fused) return;  // bound from begin_step to end_step
  follow(unit);
  for (const int id : s.groups) {
    ++group(id).users;
    gather(id);
  }
  timed_wait(name(unit), [&] {
    for (const int id : s.groups) {
      const bool moved = group(id).gathering();
      group(id).finish_gather();
      if (moved) span(TraceLog::Row::gather, name(unit), issued[static_cast<std::size_t>(id)]);
    }
  });
  for (const int id : s.groups) group(id).expand(pool);
  const bool block = is_block(unit);
  for (const int id : s.groups) {
    if (!block) group(id).bind_params();
  }
  for (const auto index : s.by_rows) {
    row_matrices[index].param->bind_rows([this, index](const nn::RowsFn& fn) { visit_rows(row_matrices[index], fn); });
  }
  if (const auto* order = schedule()) {
    for (const int id : order->ahead(position)) gather(id);
  }
}

void Engine::Impl::visit_rows(const RowMatrix& matrix, const nn::RowsFn& fn) {
  for (const auto call : matrix.calls) {
    fabric.gather->progress();
    acquire(call);
    const auto& block = group(state(call).groups.front());
    const auto& placed = block.layout().tensors().front();
    fn(block.rows(), placed.begin / (placed.numel / placed.shape.front()));
    release(call);
  }
}

void Engine::Impl::release(nn::UnitId unit) {
  auto& s = state(unit);
  if (s.fused) return;
  const bool block = is_block(unit);
  for (const int id : s.groups) {
    if (--group(id).users > 0) continue;
    if (!block) group(id).unbind_params();
    group(id).collapse();
  }
  for (const auto index : s.by_rows) row_matrices[index].param->unbind();
  trim_idle();
}

void Engine::Impl::trim_idle() {
  std::vector<int> idle;
  for (std::size_t i = 0; i < groups.size(); ++i) {
    const auto& g = *groups[i];
    if (g.users == 0 && !g.released() && use.bytes[i] > 0) idle.push_back(static_cast<int>(i));
  }
  const auto* order = schedule();
  for (const int id : order == nullptr ? idle : order->surplus(position, idle)) group(id).release();
}

void Engine::Impl::drop_idle() {
  for (std::size_t i = 0; i < groups.size(); ++i) {
    if (groups[i]->users == 0 && use.bytes[i] > 0) groups[i]->release();
  }
}

// --- backward --------------------------------------------------------------------------------------------------------

void Engine::Impl::enter_backward(nn::UnitId unit) {
  auto& s = state(unit);
  // A unit whose inputs carry no gradient has nothing that would end its backward; the next micro-batch's does.
  if (s.entered > s.left) close_backward(unit);
  if (s.entered >= lane_count) throw RunError("shard: unit '{}' entered backward twice", name(unit));
  if (config.reproducible && lane_count > 1) {  // adapters' gradients of each micro-batch apart
    for (auto& fused : units) {
      if (!fused.fused) continue;
      for (const int id : fused.groups) group(id).use_lane(s.entered);
    }
  }
  if (s.entered++ == 0 && s.reads_in_backward) acquire(unit);
  s.backward_since = TraceLog::Clock::now();
  // Of a group that others borrow, the gradients of all that use it add up, each micro-batch's apart where the order of
  // sums counts; they are reduced behind the owner's backward, which comes last.
  for (const int id : s.groups) {
    auto& g = group(id);
    g.open_grads(pool, g.shared && config.reproducible ? lane_count : 1);
    if (g.shared) g.use_lane(s.entered - 1);
  }
}

void Engine::Impl::leave_backward(nn::UnitId unit) {
  if (state(unit).entered > state(unit).left) close_backward(unit);
}

void Engine::Impl::close_backward(nn::UnitId unit) {
  auto& s = state(unit);
  const bool last = ++s.left == lane_count;
  if (trace != nullptr) span(TraceLog::Row::compute, "backward " + name(unit), s.backward_since);
  if (last || config.reproducible) reduce_unit(s);
  if (!last) return;
  s.entered = s.left = 0;
  if (s.reads_in_backward) release(unit);
}

void Engine::Impl::reduce_unit(UnitState& unit) {
  finish_reductions();  // one in flight: it overlaps the next unit's backward and bounds the memory
  for (std::size_t i = 0; i < unit.own; ++i) reduce_group(unit.groups[i]);
}

void Engine::Impl::reduce_group(int id) {
  auto& g = group(id);
  if (!g.grads_open()) return;
  at::Tensor norms;
  note(Event::reduce, id);
  issued[static_cast<std::size_t>(id)] = TraceLog::Clock::now();
  g.start_reduce(pool, &norms);
  if (norms.defined()) gradient_norms.push_back({id, norms});
  reducing.push_back(id);
}

void Engine::Impl::reduce_lent() {
  for (std::size_t id = 0; id < groups.size(); ++id) {
    while (groups[id]->shared && groups[id]->grads_open()) {
      finish_reductions();
      reduce_group(static_cast<int>(id));
    }
  }
}

void Engine::Impl::open_fused_grads() {
  for (auto& unit : units) {
    if (!unit.fused) continue;
    for (const int id : unit.groups) group(id).open_grads(pool, config.reproducible ? lane_count : 1);
  }
}

void Engine::Impl::reduce_fused() {
  for (auto& unit : units) {
    if (!unit.fused) continue;
    for (const int id : unit.groups) {
      while (group(id).grads_open()) reduce_unit(unit);
    }
  }
  finish_reductions();
}

void Engine::Impl::finish_reductions() {
  if (reducing.empty()) return;
  timed_wait("reductions", [&] {
    for (const int id : reducing) {
      group(id).finish_reduce();
      span(TraceLog::Row::reduce, name(static_cast<nn::UnitId>(group_unit[static_cast<std::size_t>(id)])),
           issued[static_cast<std::size_t>(id)]);
    }
  });
  reducing.clear();
}

}  // namespace tessera::shard
