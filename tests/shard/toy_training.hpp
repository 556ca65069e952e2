#pragma once
// A few steps of training on the toy model, by any communicators and any configuration; what it ends with, as bits.
#include <ATen/ops/arange.h>
#include <ATen/ops/remainder.h>

#include <algorithm>
#include <functional>
#include <vector>

#include "shard/toy_model.hpp"
#include "tessera/core/hash.hpp"
#include "tessera/shard/engine.hpp"
#include "tessera/shard/optimizer.hpp"

namespace tessera::shard::toy {

inline LoadPolicy drawn(std::uint64_t seed = 11) {
  LoadPolicy policy;
  policy.seed = seed;
  policy.may_initialize = [](const nn::ParamState&) { return true; };
  return policy;
}

// Micro-batch m of a step: its size depends on m, so that no two are alike; micro-batch 3 has no row at all.
inline at::Tensor micro_ids(std::int64_t step, std::int64_t m) {
  const std::int64_t rows = m == 3 ? 0 : 3 + m % 4;
  return at::remainder(at::arange(rows) * 7 + step * 5 + m * 11 + 3, ToyModel::kVocab);
}

struct Trained {
  std::uint64_t weights = 0;  // hash of all of them, in layout order
  std::vector<double> losses, norms;
  bool operator==(const Trained&) const = default;
};

// All weights whole, in layout order; collective.
inline std::vector<float> all_weights(Engine& engine) {
  std::vector<float> out;
  for (std::size_t u = 0; u < engine.layout().units().size(); ++u) {
    engine.with_gathered(static_cast<nn::UnitId>(u), true, [&] {
      for (const auto& p : engine.layout().units()[u].params) {
        const at::Tensor host = p->value().detach().to(c10::Device(c10::DeviceType::CPU), at::kFloat).contiguous();
        out.insert(out.end(), host.const_data_ptr<float>(), host.const_data_ptr<float>() + host.numel());
      }
    });
  }
  return out;
}

// `micro_batches` a step over all ranks of the fabric; micro-batch m is run by rank m % W.
inline Trained train(const ToyModel& model, const comm::Fabric& fabric, const EngineConfig& config, int steps,
                     int micro_batches, const std::function<void(Engine&)>& after = {}) {
  Engine engine(model.layout, fabric, config);
  engine.load(NoTensors(), drawn());
  engine.settle();
  Optimizer optimizer(engine, {0.9, 0.95, 1e-8}, {{"all", 1e-2, 0.1}, {"head", 2e-3, 0.0}},
                      [](const nn::ParamState& p) { return p.name == "out.weight" ? 1U : 0U; });
  Trained result;
  const int own = micro_batches / fabric.size();
  for (int step = 0; step < steps; ++step) {
    engine.begin_step();
    std::vector<double> loss_of(static_cast<std::size_t>(micro_batches));
    auto forward = [&](int round) {
      const int m = round * fabric.size() + fabric.rank();
      const at::Tensor loss = model.loss(micro_ids(step, m).to(config.device), engine);
      loss_of[static_cast<std::size_t>(m)] = loss.item<double>();
      return loss;
    };
    for (int round = 0; round < own; round += config.layer_major) {
      if (config.layer_major > 1) {
        std::vector<std::function<at::Tensor()>> forwards;
        for (int lane = 0; lane < config.layer_major; ++lane)
          forwards.emplace_back([&, r = round + lane] { return forward(r); });
        engine.run_layer_major(forwards);
        continue;
      }
      engine.begin_pass(Pass::train);
      engine.backward(forward(round));
      engine.end_pass();
    }
    engine.reduce_held();
    const auto report = engine.check_gradients();
    optimizer.step(clip_scale(report.norm, 1.0));
    engine.end_step();
    fabric.control->all_reduce({loss_of.data(), micro_batches, comm::DType::f64});
    double total = 0;
    for (const double l : loss_of) total += l;
    result.losses.push_back(total);
    result.norms.push_back(report.norm);
  }
  if (after) after(engine);
  const auto weights = all_weights(engine);
  result.weights = xxh3_64(weights.data(), weights.size() * sizeof(float));
  return result;
}

// The first `ranks` ranks as a job of their own; null on the others. Collective over `world`.
inline std::unique_ptr<comm::Communicator> first_ranks(comm::Communicator& world, int ranks) {
  auto part = world.split(world.rank() < ranks ? 0 : 1, world.rank(), "part");
  if (world.rank() < ranks) return part;
  part->close();
  return nullptr;
}

}  // namespace tessera::shard::toy
