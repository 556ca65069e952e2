#include "bench/workload.hpp"

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/ones.h>

#include <chrono>

#include "support/no_tensors.hpp"
#include "tessera/adapt/lora.hpp"
#include "tessera/adapt/trainable.hpp"
#include "tessera/core/error.hpp"
#include "tessera/core/random.hpp"
#include "tessera/models/llama.hpp"
#include "tessera/shard/optimizer.hpp"
#include "tessera/train/workload.hpp"

namespace tessera::bench {
namespace {

models::LlamaConfig llama_config(const WorkloadShape& shape) {
  models::LlamaConfig config;
  config.vocab_size = shape.vocabulary;
  config.hidden_size = shape.hidden;
  config.intermediate_size = shape.inner;
  config.layers = shape.layers;
  config.heads = config.kv_heads = shape.heads;
  config.head_dim = config.rope.dim = shape.hidden / shape.heads;
  return config;
}

shard::EngineConfig engine_config(const EngineSettings& settings, const nn::ModelLayout& layout) {
  shard::EngineConfig config;
  config.device = settings.device;
  config.compute = settings.device.is_cpu() ? shard::ComputeType::f32 : shard::ComputeType::bf16;
  config.prefetch = settings.prefetch;
  config.keep_bytes = settings.keep_bytes;
  config.reproducible = settings.reproducible;
  config.policy.frozen = settings.resident ? shard::Placement::resident : shard::Placement::world;
  for (const nn::Unit& unit : layout.units()) {
    config.units.push_back(config.policy);
    config.units.back().recompute = settings.checkpointing && !unit.light;
  }
  return config;
}

}  // namespace

WorkloadShape workload_named(const std::string& name) {
  if (name == "w1") return {name, 512, 8, 8, 1376, 32000, 256, 2, true, true};
  if (name == "w2") return {name, 512, 8, 8, 1376, 32000, 256, 2, false, true};
  if (name == "w3") return {name, 1024, 16, 16, 2752, 32000, 512, 1, true, false};
  throw RequestError("workload '{}' is none of w1, w2, w3", name);
}

struct Workload::Impl {
  Impl(const WorkloadShape& shape_in, const comm::Fabric& fabric_in, const EngineSettings& settings)
      : shape(shape_in), fabric(fabric_in), llama(llama_config(shape)) {
    llama.add_embedding(layout);
    llama.add_decoder(layout);
    if (shape.lora) {
      adapt::LoraConfig lora;
      lora.dropout = 0;
      adapt::attach_lora(layout, lora);
    }
    if (!shape.lora) {
      adapt::mark_trainable(layout, adapt::TrainScope::full);
    } else if (shape.ends) {
      adapt::mark_trainable(layout, {"embed_tokens", "lm_head"});
    } else {
      adapt::mark_trainable(layout, std::vector<std::string>{});
    }
    config = engine_config(settings, layout);
    engine = std::make_unique<shard::Engine>(layout, fabric, config);
    shard::LoadPolicy policy;
    policy.may_initialize = [](const nn::ParamState&) { return true; };
    engine->load(testing_support::NoTensors(), policy);
    engine->settle();
    optimizer = std::make_unique<shard::Optimizer>(*engine, shard::OptimizerConfig{},
                                                   std::vector<shard::ParamGroup>{{"all", 1e-4, 0.0}},
                                                   [](const nn::ParamState&) { return std::size_t{0}; });
    draw_batch();
  }

  void draw_batch() {
    ids = at::empty({shape.rows, shape.length}, at::kLong);
    const CounterStream stream(mix_keys(7, static_cast<std::uint64_t>(fabric.rank())));
    auto* out = ids.mutable_data_ptr<std::int64_t>();
    for (std::int64_t i = 0; i < ids.numel(); ++i) {
      const auto u = static_cast<double>(stream.uniform(static_cast<std::uint64_t>(i)));
      out[i] = static_cast<std::int64_t>(u * static_cast<double>(shape.vocabulary));
    }
    ids = ids.to(config.device);
    mask = at::ones({shape.rows, shape.length}, ids.options().dtype(at::kBool));
    scored = models::next_token_targets(ids);
  }

  /// Sum of the cross-entropies of this rank's tokens.
  at::Tensor forward() {
    const nn::ForwardContext ctx;
    const at::Tensor hidden = llama.decode(llama.embed(ids, *engine), mask, *engine, ctx);
    const std::int64_t width = shape.hidden;
    return engine
        ->run(llama.head_unit(), {hidden},
              [this, ctx, width](const nn::Tensors& in) {
                const at::Tensor rows = in.at(0).reshape({-1, width}).index_select(0, scored.positions);
                return nn::Tensors{llama.head_loss(llama.final_norm(rows), scored.targets, ctx)};
              })
        .at(0);
  }

  double one_step() {
    engine->begin_step();
    engine->begin_pass(shard::Pass::train);
    const at::Tensor sum = forward();
    const auto tokens = static_cast<double>(scored.targets.numel());
    engine->backward(sum.div(tokens * fabric.size()));
    engine->end_pass();
    engine->reduce_held();
    optimizer->step(shard::clip_scale(engine->grad_norm(), 1.0));
    engine->end_step();
    return sum.item<double>() / tokens;
  }

  shard::RunPlan assess(std::int64_t baseline) const;

  WorkloadShape shape;
  comm::Fabric fabric;
  nn::ModelLayout layout;
  models::Llama llama;
  shard::EngineConfig config;
  std::unique_ptr<shard::Engine> engine;
  std::unique_ptr<shard::Optimizer> optimizer;
  at::Tensor ids, mask;
  models::NextTokenTargets scored;
};

Workload::Workload(const WorkloadShape& shape, const comm::Fabric& fabric, const EngineSettings& settings)
    : impl_(std::make_unique<Impl>(shape, fabric, settings)) {}
Workload::~Workload() = default;

StepResult Workload::step() {
  StepResult result;
  impl_->engine->take_comm_wait();
  const auto begin = std::chrono::steady_clock::now();
  result.loss = impl_->one_step();
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  result.comm_wait = impl_->engine->take_comm_wait();
  return result;
}

std::int64_t Workload::tokens_per_rank() const {
  return impl_->shape.rows * impl_->shape.length;
}

shard::RunPlan Workload::Impl::assess(std::int64_t baseline) const {
  shard::PlannerRequest request;
  request.world = fabric.size();
  request.engine = config;
  request.baseline = baseline;
  // Where only adapters train, nothing flows back into the embedding.
  const bool all = !shape.lora || shape.ends;
  request.has_backward = [all](const nn::Unit& unit) { return all || unit.name != "model.embed_tokens"; };
  train::BatchShape batch;
  batch.images = batch.masks = 0;
  batch.rows = shape.rows;
  batch.length = shape.length;
  request.work =
      train::language_workload(layout, {llama_config(shape)}, batch, config.compute == shard::ComputeType::f32 ? 4 : 2);
  return shard::Planner(layout, request).assess(config);
}

shard::Plan Workload::plan() const {
  return impl_->assess(0).plan;
}

shard::MemoryEstimate Workload::predicted(std::int64_t baseline) const {
  return impl_->assess(baseline).memory;
}

shard::MemoryReport Workload::memory() const {
  return impl_->engine->memory();
}

void Workload::close() {
  impl_->optimizer.reset();
  impl_->engine.reset();
}

}  // namespace tessera::bench
