// An update of each optimiser on one rank: eight tensors of 2048 x 2048, gradients scaled as clipping does.
//   OMP_NUM_THREADS=2 build/bench_optimizer [--steps 7]
// Medians over the steps after two to warm up; GB/s counts each byte of master, gradient and states that an update has
// to read and write once. tests/bench/optimizer.py runs torch's and bitsandbytes' on the same sizes.
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <vector>

#include "tessera/comm/fabric.hpp"
#include "tessera/comm/solo.hpp"
#include "tessera/core/memory.hpp"
#include "tessera/core/options.hpp"
#include "tessera/shard/optimizer.hpp"

namespace {

using namespace tessera;

struct Case {
  const char* name;
  shard::OptimizerConfig config;
};

std::vector<Case> cases() {
  using shard::OptimizerKind;
  std::vector<Case> out{{"adamw", {}},         {"adamw_8bit", {}}, {"sgd", {}},
                        {"sgd, momentum", {}}, {"lion", {}},       {"adamw, average", {}}};
  out[1].config.kind = OptimizerKind::adamw_8bit;
  out[2].config.kind = out[3].config.kind = OptimizerKind::sgd;
  out[3].config.momentum = 0.9;
  out[4].config.kind = OptimizerKind::lion;
  out[5].config.ema_decay = 0.999;
  return out;
}

void measure(const Case& what, std::int64_t steps) {
  nn::ModelLayout layout;
  const auto unit = layout.add_unit("all");
  for (int i = 0; i < 8; ++i)
    layout.add(unit, fmt::format("{}.weight", i), {2048, 2048}, nn::Init::zeros())->trainable = true;
  const auto comm = comm::make_solo();
  shard::EngineConfig config;
  config.moments = what.config.moments();
  config.moments_8bit = what.config.moments_8bit();
  config.average = what.config.ema_decay > 0;
  shard::Engine engine(layout, comm::Fabric::on_host(*comm), config);
  shard::Optimizer optimizer(engine, what.config, {{"all", 1e-4, 0.1}},
                             [](const nn::ParamState&) { return std::size_t{0}; });
  const at::NoGradGuard no_grad;
  for (auto& slice : engine.trained()) slice.grad.uniform_(-1.0, 1.0);
  std::vector<double> seconds;
  for (std::int64_t step = 0; step < steps + 2; ++step) {
    const auto start = std::chrono::steady_clock::now();
    optimizer.step(0.5);
    const double s = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    for (auto& slice : engine.trained()) slice.grad.mul_(2.0);  // fused kernels leave it scaled
    if (step >= 2) seconds.push_back(s);
  }
  std::sort(seconds.begin(), seconds.end());
  const auto held = engine.memory();
  const auto moved = static_cast<double>(2 * (held.master + held.optimizer + held.average) + held.gradients);
  const double median = seconds[seconds.size() / 2];
  fmt::print("{:<16} {:7.2f} ms, {:5.1f} GB/s, {:6.1f} MiB of states\n", what.name, 1e3 * median, moved / median / 1e9,
             static_cast<double>(held.optimizer + held.average) / (1 << 20));
}

}  // namespace

int main(int argc, char** argv) {
  keep_freed_memory();
  std::int64_t steps = 7;
  Options options("bench_optimizer", "An update of each optimiser, measured.");
  options.add("steps", &steps, "measured", {.min = 1});
  try {
    if (options.parse({argv + 1, argv + argc}).help) return std::fputs(options.help().c_str(), stdout) < 0;
    for (const auto& what : cases()) measure(what, steps);
  } catch (const std::exception& error) {
    fmt::print(stderr, "error: {}\n", error.what());
    return 2;
  }
}
