/// Forward and backward of one adapted linear layer, on as many threads as OMP_NUM_THREADS says: milliseconds, and the
/// bytes that are kept for backward beside input, output and weights.
///     build/bench_adapters --kind lora --rows 2048 --in 1024 --out 1024 --rank 16 [--bias] [--device cuda]
/// tests/bench/adapters.py runs it in turn with PEFT's layer of the same sizes and prints the ratio. What is kept does
/// not depend on the device and is counted on the CPU.
#include <ATen/ops/randn.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <vector>

#include "support/live_bytes.hpp"
#include "tessera/adapt/lora.hpp"
#include "tessera/comm/mpi_env.hpp"
#include "tessera/comm/transports.hpp"
#include "tessera/core/options.hpp"
#include "tessera/nn/runner.hpp"

namespace tessera {
namespace {

struct Flags {
  std::string kind = "lora", device = "cpu";
  std::int64_t rows = 2048, in = 1024, out = 1024, rank = 16;
  bool bias = false;
  double seconds = 1;
};

void bind(Options& options, Flags& f) {
  options.add("kind", &f.kind, "what sits on the layer", {.choices = {"lora", "dora", "adalora", "plain"}});
  options.add("device", &f.device, "where it runs", {.choices = {"cpu", "cuda"}});
  options.add("rows", &f.rows, "of the input", {.min = 1});
  options.add("in", &f.in, "input size", {.min = 1});
  options.add("out", &f.out, "output size", {.min = 1});
  options.add("rank", &f.rank, "of the adapter", {.min = 1});
  options.add("bias", &f.bias, "the layer has one");
  options.add("seconds", &f.seconds, "to measure for", {.unit = "s"});
}

adapt::LoraConfig config_of(const Flags& f) {
  adapt::LoraConfig config;
  config.targets = {"layer"};
  config.rank = f.rank;
  config.dropout = 0;
  config.dora = f.kind == "dora";
  config.init = adapt::LoraInit::both;
  if (f.kind == "adalora") {
    config.adalora.emplace();
    config.adalora->init_r = config.adalora->target_r = f.rank;
    config.adalora->total_step = 1;
  }
  return config;
}

void wait_for(c10::Device device) {
  if (!device.is_cpu()) c10::impl::VirtualGuardImpl(device.type()).synchronizeDevice(device.index());
}

void run(const Flags& f, c10::Device device) {
  nn::ModelLayout layout;
  const nn::Linear layer(nn::Scope(layout, layout.add_unit("unit"), ""), "layer", f.in, f.out, f.bias);
  if (f.kind != "plain") adapt::attach_lora(layout, config_of(f));
  for (const nn::Param& param : layout.params()) {
    if (!layout.unit(param->unit).fused) param->trainable = false;
  }
  nn::materialize(layout, 1);
  const auto kept = [&] {
    const at::Tensor x = at::randn({f.rows, f.in}).requires_grad_();
    const testing_support::LiveBytes live;
    const at::Tensor y = layer(x, {});
    return live.count() - static_cast<std::int64_t>(y.nbytes());
  }();
  for (const nn::Param& param : layout.params()) {
    param->bind(param->value().detach().to(device).requires_grad_(param->trainable));
  }
  const at::Tensor x = at::randn({f.rows, f.in}).to(device).requires_grad_();
  const at::Tensor gradient = at::randn({f.rows, f.out}).to(device);
  layer(x, {}).backward(gradient);  // warms up
  using Clock = std::chrono::steady_clock;
  std::vector<double> times;
  const auto start = Clock::now();
  while (times.size() < 5 || Clock::now() - start < std::chrono::duration<double>(f.seconds)) {
    x.mutable_grad().reset();
    for (const nn::Param& param : layout.params()) param->value().mutable_grad().reset();
    wait_for(device);
    const auto begin = Clock::now();
    layer(x, {}).backward(gradient);
    wait_for(device);
    times.push_back(std::chrono::duration<double>(Clock::now() - begin).count());
  }
  std::sort(times.begin(), times.end());
  fmt::print("{:.4f} ms (median of {}), {} bytes kept\n", 1e3 * times[times.size() / 2], times.size(), kept);
}

void run_on(const Flags& f) {
  if (f.device == "cpu") return run(f, c10::kCPU);
  comm::MpiEnv env(nullptr, nullptr);
  comm::TransportOptions options;
  options.device = f.device;
  comm::Transports transports(env, options);
  run(f, {c10::DeviceType::CUDA, static_cast<c10::DeviceIndex>(transports.gpu()->info().index)});
  transports.close();
}

}  // namespace
}  // namespace tessera

int main(int argc, char** argv) {
  tessera::Flags flags;
  tessera::Options options("bench_adapters", "Forward and backward of one adapted linear layer.");
  bind(options, flags);
  try {
    if (options.parse({argv + 1, argv + argc}).help) {
      fmt::print("{}", options.help());
      return 0;
    }
    tessera::run_on(flags);
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}\n", error.what());
    return 2;
  }
  return 0;
}
