#include "tessera/shard/engine.hpp"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/add.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/ones.h>

#include <algorithm>

#include "shard/engine_impl.hpp"
#include "shard/slice_states.hpp"
#include "tessera/core/error.hpp"
#include "tessera/nn/layers.hpp"

namespace tessera::shard {
namespace {

void mark_int8_layers(const nn::ModelLayout& layout, const Quantization& q) {
  for (const auto& layer : layout.layers()) {
    layer->int8_threshold.reset();
    const bool packed = q.kind == QuantKind::int8 && q.covers(layer->weight->name) && !layer->weight->trainable;
    if (packed && layer->kind == nn::LayerKind::linear) layer->int8_threshold = q.threshold;
  }
}

}  // namespace

Engine::Impl::Impl(const nn::ModelLayout& layout_in, comm::Fabric fabric_in, EngineConfig config_in)
    : layout(layout_in),
      fabric(fabric_in),
      config(std::move(config_in)),
      pool(config.device, [this](std::size_t n) { return fabric.gather->allocate(n); }),
      copies(config.device),
      row_bytes(row_block_bytes(layout, config)) {
  units.resize(layout.units().size());
  for (std::size_t u = 0; u < layout.units().size(); ++u) add_unit(u);
  mark_int8_layers(layout, config.quantization);
  for (std::size_t u = 0; u < layout.units().size(); ++u) {
    for (const auto id : layout.units()[u].borrows) {
      const auto& owner = units.at(static_cast<std::size_t>(id));
      auto& s = units[u];
      for (const int owned : owner.groups) group(owned).shared = true;
      s.groups.insert(s.groups.end(), owner.groups.begin(), owner.groups.end());
      s.by_rows.insert(s.by_rows.end(), owner.by_rows.begin(), owner.by_rows.end());
      s.needs_graph = s.needs_graph || owner.needs_graph;
    }
  }
  for (const auto& s : units) use.of_unit.push_back(s.fused ? std::vector<int>{} : s.groups);
  for (auto& g : groups) {
    if (!g->trained()) continue;
    TrainedSlice slice;
    slice.layout = &g->layout();
    slice.pieces = g->layout().pieces(fabric.rank());
    slice.master = g->shard();
    slice.grad = g->grad_shard();
    allocate_states(slice, config);
    trained_slices.push_back(std::move(slice));
  }
  issued.resize(groups.size());
  anchor = at::ones({1}, at::TensorOptions().device(config.device)).set_requires_grad(true);
}

int Engine::Impl::add_group(std::size_t unit, const GroupPart& part) {
  groups.push_back(std::make_unique<Group>(part, fabric, copies));
  group_unit.push_back(static_cast<int>(unit));
  use.bytes.push_back(part.spec.fused ? 0 : groups.back()->sizes().gather);
  return static_cast<int>(groups.size()) - 1;
}

void Engine::Impl::add_unit(std::size_t index) {
  const auto& unit = layout.units()[index];
  const auto& policy = config.policy_of(index);
  UnitState s;
  s.fused = unit.fused;
  s.needs_graph = unit.adapted;
  s.recompute = policy.recompute;
  s.reads_in_backward = policy.recompute || unit.backward_reads_weights;
  const auto parts = parts_of(unit, policy, config, row_bytes);
  for (const auto& part : parts.whole) {
    if (part.spec.trained && !unit.fused && !s.recompute && config.reproducible && config.layer_major > 1) {
      throw RequestError(
          "micro-batches that run layer by layer have the same bits as one by one only if unit '{}' is recomputed in "
          "backward: turn gradient checkpointing on, or reproducible sums off",
          unit.name);
    }
    s.needs_graph = s.needs_graph || part.spec.trained;
    s.groups.push_back(add_group(index, part));
  }
  s.own = s.groups.size();
  if (!parts.blocks.empty()) s.by_rows.push_back(row_matrices.size());
  units[index] = std::move(s);
  if (!parts.blocks.empty()) add_rows(index, parts.blocks);
}

void Engine::Impl::add_rows(std::size_t index, const std::vector<GroupPart>& blocks) {
  RowMatrix matrix{blocks.front().params.front(), {}};
  for (const auto& block : blocks) {
    UnitState s;
    s.groups.push_back(add_group(index, block));
    matrix.calls.push_back(static_cast<nn::UnitId>(units.size()));
    block_unit.push_back(static_cast<int>(index));
    units.push_back(std::move(s));
  }
  row_matrices.push_back(std::move(matrix));
}

const std::string& Engine::Impl::name(nn::UnitId call) const {
  const auto own = static_cast<nn::UnitId>(layout.units().size());
  return layout.unit(is_block(call) ? block_unit.at(static_cast<std::size_t>(call - own)) : call).name;
}

Engine::Engine(const nn::ModelLayout& layout, comm::Fabric fabric, EngineConfig config)
    : impl_(std::make_unique<Impl>(layout, fabric, std::move(config))) {}

Engine::~Engine() {
  for (auto& g : impl_->groups) g->unbind_params();
}

void Engine::begin_step() {
  auto& e = *impl_;
  e.events.clear();
  e.gradient_norms.clear();
  for (auto& unit : e.units) {
    if (!unit.fused) continue;
    for (const int id : unit.groups) e.gather(id);
    for (const int id : unit.groups) {
      e.group(id).finish_gather();
      e.group(id).bind_params();
    }
  }
}

void Engine::Impl::open_pass(Pass which, int micro_batches) {
  if (which != last_pass) drop_idle();
  pass = last_pass = which;
  position = 0;
  lane_count = micro_batches;
  if (pass == Pass::train) open_fused_grads();
}

void Engine::begin_pass(Pass pass) {
  impl_->open_pass(pass, 1);
}

void Engine::end_pass() {
  auto& e = *impl_;
  e.finish_reductions();
  if (auto* order = e.schedule()) {
    if (order->recorded() && e.position != order->order().size()) {
      throw RunError(
          "shard: the pass ended after {} of {} recorded units, before '{}'; the units a model runs must not "
          "depend on its batch",
          e.position, order->order().size(), e.name(order->order()[e.position]));
    }
    order->close();
    e.trim_idle();
  } else {
    e.drop_idle();
  }
  if (e.pass == Pass::train && e.config.reproducible) e.reduce_fused();
  e.pass = Pass::free_order;
  e.position = 0;
  e.lane_count = 1;
}

nn::Tensors Engine::run(nn::UnitId unit, const nn::Tensors& inputs, const nn::UnitFn& fn, const nn::UnitFn& again) {
  auto& e = *impl_;
  auto& s = e.state(unit);
  if (e.lanes) e.lanes->meet(unit);
  const std::size_t lane = e.lanes ? e.lanes->lane() : 0;
  const bool graph = at::GradMode::is_enabled();
  bool needs_graph = graph && s.needs_graph;
  for (const auto& t : inputs) needs_graph = needs_graph || (graph && t.defined() && t.requires_grad());

  e.fabric.gather->progress();
  if (lane == 0) e.acquire(unit);
  const auto start = TraceLog::Clock::now();
  nn::Tensors outputs;
  if (!needs_graph) {
    const at::NoGradGuard no_grad;
    outputs = fn(inputs);
  } else if (s.recompute) {
    outputs = run_checkpointed(e, unit, inputs, fn, again ? again : fn, e.anchor);
  } else {
    outputs = mark_outputs(e, unit, fn(mark_inputs(e, unit, inputs)));
  }
  if (e.trace != nullptr) e.span(TraceLog::Row::compute, "forward " + e.name(unit), start);
  if (lane + 1 == static_cast<std::size_t>(e.lane_count)) e.release(unit);
  return outputs;
}

void Engine::backward(const at::Tensor& loss) {
  auto& e = *impl_;
  run_backward(loss);
  e.anchor.mutable_grad() = at::Tensor();
  // Units whose inputs carry no gradient have nothing that would end their backward; they close here, in layout order.
  for (std::size_t u = 0; u < e.units.size(); ++u) {
    while (e.units[u].entered > 0) e.close_backward(static_cast<nn::UnitId>(u));
  }
  e.reduce_lent();
  e.finish_reductions();
}

void Engine::run_layer_major(const std::vector<std::function<at::Tensor()>>& forwards) {
  auto& e = *impl_;
  const auto count = forwards.size();
  if (static_cast<int>(count) != e.config.layer_major) {
    throw RunError("shard: {} micro-batches run layer by layer, the plan has {}", count, e.config.layer_major);
  }
  e.open_pass(Pass::train, static_cast<int>(count));
  std::vector<at::Tensor> losses(count);
  std::vector<std::function<void()>> functions;
  // Backward takes the last lane first; micro-batches must come in order in the sum, so the last lane runs the first.
  for (std::size_t lane = 0; lane < count; ++lane) {
    const auto micro = count - 1 - lane;
    functions.emplace_back([&, micro] { losses[micro] = forwards[micro](); });
  }
  e.lanes = std::make_unique<Lanes>(functions);
  struct Leave {
    Impl& impl;
    ~Leave() { impl.lanes.reset(); }
  };
  {
    const Leave leave{e};
    e.lanes->run();
  }
  at::Tensor total = losses.front();
  for (std::size_t i = 1; i < count; ++i) total = at::add(total, losses[i]);
  backward(total);
  end_pass();
}

void Engine::reduce_held() {
  impl_->reduce_fused();
}

void Engine::end_step() {
  auto& e = *impl_;
  const at::NoGradGuard no_grad;
  for (auto& slice : e.trained_slices) slice.grad.zero_();
  for (std::size_t i = 0; i < e.groups.size(); ++i) {
    auto& g = *e.groups[i];
    const bool fused = e.units[static_cast<std::size_t>(e.group_unit[i])].fused;
    if (fused) g.unbind_params();
    if (fused || g.trained()) g.release();  // the optimiser has changed what was gathered
  }
}

std::vector<TrainedSlice>& Engine::trained() noexcept {
  return impl_->trained_slices;
}

void Engine::with_gathered(nn::UnitId unit, bool exact, const std::function<void()>& fn) {
  auto& e = *impl_;
  auto& s = e.state(unit);
  const at::NoGradGuard no_grad;
  std::vector<std::pair<BufferPool::Block, at::Tensor>> masters, rows;
  for (const auto index : s.by_rows) rows.emplace_back(e.gather_rows(e.row_matrices[index]));
  for (const int id : s.groups) {
    auto& g = e.group(id);
    if (g.users > 0) throw RunError("shard: unit '{}' is in use while it should be gathered alone", e.name(unit));
    if (!exact || !g.trained() || g.spec().compute == at::kFloat) {
      g.start_gather(e.pool);
      g.finish_gather();
      g.expand(e.pool);
      g.bind_params();
      continue;
    }
    auto block = e.pool.take(g.layout().full() * 4);
    const at::Tensor full = at::from_blob(block.data(), {g.layout().full()}, g.grad_shard().options());
    const at::Tensor mine = full.narrow(0, e.fabric.rank() * g.layout().slice(), g.layout().slice());
    mine.copy_(g.shard());
    e.fabric.gather->all_gather(buffer_of(mine), buffer_of(full));
    for (const auto& t : g.layout().tensors()) t.param->bind(full.narrow(0, t.offset, t.numel).view(t.param->shape));
    masters.emplace_back(std::move(block), full);
  }
  fn();
  for (const auto index : s.by_rows) e.row_matrices[index].param->unbind();
  for (const int id : s.groups) {
    e.group(id).unbind_params();
    e.group(id).release();
  }
}

void Engine::with_packed(
    nn::UnitId unit,
    const std::function<void(const nn::ParamState&, const at::Tensor& codes, const at::Tensor& scales)>& fn) {
  auto& e = *impl_;
  const at::NoGradGuard no_grad;
  for (const int id : e.state(unit).groups) {
    auto& g = e.group(id);
    const Packing* packing = g.packing();
    if (packing == nullptr || e.group_unit[static_cast<std::size_t>(id)] != unit) continue;
    g.start_gather(e.pool);
    g.finish_gather();
    const at::Tensor bytes = g.gathered_bytes().cpu();
    for (std::size_t i = 0; i < g.layout().tensors().size(); ++i) {
      const auto [codes, scales] = packing->extract(bytes, i);
      fn(*g.layout().tensors()[i].param, codes, scales);
    }
    g.release();
  }
}

// All blocks side by side, bound as a whole matrix.
std::pair<BufferPool::Block, at::Tensor> Engine::Impl::gather_rows(const RowMatrix& matrix) {
  const auto& first = group(state(matrix.calls.front()).groups.front());
  const auto& param = *matrix.param;
  auto memory = pool.take(param.numel() * static_cast<std::int64_t>(c10::elementSize(first.spec().compute)));
  at::Tensor full = at::from_blob(memory.data(), param.shape, first.rows().options());
  visit_rows(matrix,
             [&](const at::Tensor& rows, std::int64_t begin) { full.narrow(0, begin, rows.size(0)).copy_(rows); });
  matrix.param->bind(full);
  return {std::move(memory), std::move(full)};
}

void Engine::with_gradients(nn::UnitId unit, const std::function<void(const nn::ParamState&, const at::Tensor&)>& fn) {
  auto& e = *impl_;
  const at::NoGradGuard no_grad;
  for (const int id : e.state(unit).groups) {
    auto& g = e.group(id);
    if (!g.trained()) continue;
    auto block = e.pool.take(g.layout().full() * 4);
    const at::Tensor full = at::from_blob(block.data(), {g.layout().full()}, g.grad_shard().options());
    e.fabric.gather->all_gather(buffer_of(g.grad_shard()), buffer_of(full));
    for (const auto& t : g.layout().tensors()) fn(*t.param, full.narrow(0, t.offset, t.numel).view(t.param->shape));
  }
}

MemoryReport Engine::memory() const {
  MemoryReport report;
  for (std::size_t i = 0; i < impl_->groups.size(); ++i) {
    const auto& g = *impl_->groups[i];
    const auto bytes = g.sizes().shard;
    if (g.trained()) {
      report.master += bytes;
      report.gradients += bytes;
      report.optimizer += moment_bytes(g.layout(), impl_->config);
      report.average += average_bytes(g.layout(), impl_->config);
    } else {
      report.frozen += bytes;
    }
    if (g.spec().on_host) report.host += bytes + (g.trained() ? state_bytes(g.layout(), impl_->config) : 0);
    if (!g.spec().fused) continue;
    const int lanes = impl_->config.reproducible ? impl_->config.layer_major : 1;
    report.held += g.sizes().gather + g.sizes().grads * lanes;
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
void Engine::set_trace(TraceLog* trace) noexcept {
  impl_->trace = trace;
}
double Engine::take_comm_wait() {
  return std::exchange(impl_->comm_wait_s, 0.0);
}

}  // namespace tessera::shard
