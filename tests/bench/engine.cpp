// A training step of the engine on the CPU or GPU, on three workloads, beside the plan.
//   OMP_NUM_THREADS=1 mpirun -n 2 --bind-to none build/bench_engine --workload w1 [--no-checkpointing] [--steps 7]
// W1: LLaMA, hidden 512, 8 layers, 8 heads, inner 1376, vocabulary 32000, sequence 256, 2 rows a rank; LoRA r 8 alpha
// 16 on q and v, embedding and head trained. W2: the same, everything trained. W3: hidden 1024, 16 layers, inner 2752,
// sequence 512, 1 row a rank, LoRA only. AdamW, clip 1.0, random weights and tokens, every token with a label.
// Times are those of the slowest rank, medians over the steps after two to warm up. --profile lists LibTorch's
// operations by the time spent in each itself. tests/bench/engine_python.py runs the same in PyTorch.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <exception>
#include <string>
#include <vector>

#include "bench/job.hpp"
#include "bench/op_times.hpp"
#include "bench/workload.hpp"
#include "tessera/comm/transports.hpp"
#include "tessera/core/error.hpp"
#include "tessera/core/memory.hpp"
#include "tessera/core/options.hpp"
#include "tessera/train/machine.hpp"

namespace {

using namespace tessera;

struct Flags {
  std::string workload = "w1";
  bool checkpointing = true;
  bool resident = false;
  bool reproducible = true;
  std::int64_t prefetch = 1;
  std::int64_t keep_mib = 0;
  bool progress_thread = false;
  bool profile = false;
  std::int64_t steps = 7;
};

bool parse(Flags& flags, int argc, char** argv) {
  Options options("bench_engine", "A training step of the engine, measured.");
  options.add("workload", &flags.workload, "which", {.choices = {"w1", "w2", "w3"}});
  options.add("checkpointing", &flags.checkpointing, "recompute activations in backward", {});
  options.add("resident", &flags.resident, "gather frozen weights once", {});
  options.add("prefetch", &flags.prefetch, "units gathered ahead", {.min = 0});
  options.add("keep_mib", &flags.keep_mib, "gathered weights that may stay after their use", {.unit = "MiB", .min = 0});
  options.add("reproducible", &flags.reproducible, "the same bits for any number of ranks", {});
  options.add("progress_thread", &flags.progress_thread, "MpiOptions::progress_thread", {});
  options.add("profile", &flags.profile, "list LibTorch's operations by time", {});
  options.add("steps", &flags.steps, "measured steps", {.min = 1});
  const auto outcome = options.parse({argv + 1, argv + argc});
  if (outcome.help) std::fputs(options.help().c_str(), stdout);
  return !outcome.help;
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

double mib(double bytes) {
  return bytes / (1 << 20);
}

/// The largest of the ranks' values, on every rank.
double largest(comm::Communicator& control, double mine) {
  control.all_reduce({&mine, 1, comm::DType::f64}, comm::ReduceOp::max);
  return mine;
}

std::int64_t sent(const comm::Communicator& comm, const char* kind) {
  const auto found = comm.counters().find(kind);
  return found == comm.counters().end() ? 0 : found->second.sent;
}

void measure(const Flags& flags, comm::MpiEnv& env) {
  comm::Transports transports(env);
  const comm::Fabric& fabric = transports.fabric();
  const auto device = transports.on_gpu() ? c10::Device(c10::DeviceType::CUDA,
                                                        static_cast<c10::DeviceIndex>(transports.gpu()->info().index))
                                          : c10::Device(c10::DeviceType::CPU);
  const bench::EngineSettings settings{flags.checkpointing,      flags.resident,     static_cast<int>(flags.prefetch),
                                       flags.keep_mib * 1048576, flags.reproducible, device};
  const auto baseline = train::memory_in_use(device);
  bench::Workload work(bench::workload_named(flags.workload), fabric, settings);
  constexpr int kWarmUp = 2;
  std::vector<double> seconds, waits, products, attentions;
  double loss = 0;
  for (std::int64_t step = 0; step < kWarmUp + flags.steps; ++step) {
    if (step == kWarmUp) {
      fabric.gather->reset_counters();
      fabric.reduce->reset_counters();
    }
    fabric.control->barrier();
    bench::OpTimes ops;
    const bench::StepResult result = work.step();
    const auto times = ops.stop();
    loss = result.loss;
    if (step < kWarmUp) continue;
    seconds.push_back(largest(*fabric.control, result.seconds));
    waits.push_back(largest(*fabric.control, result.comm_wait));
    products.push_back(times.products / result.seconds);
    attentions.push_back(times.attention / result.seconds);
    if (flags.profile && env.rank() == 0 && step == kWarmUp + flags.steps - 1) bench::print_top(times, result.seconds);
  }
  const double step_s = median(seconds);
  const double peak = largest(*fabric.control, static_cast<double>(train::peak_memory_in_use(device)));
  const auto steps = static_cast<double>(flags.steps);
  const double gathered = static_cast<double>(sent(*fabric.gather, "all_gather")) / steps;
  const double reduced = static_cast<double>(sent(*fabric.reduce, "reduce_scatter")) / steps;
  const auto plan = work.plan();
  const auto predicted = work.predicted(baseline);
  const auto held = work.memory();
  if (env.rank() == 0) {
    const double tokens = static_cast<double>(work.tokens_per_rank()) * env.size();
    fmt::print(
        "{} checkpointing={} ranks={}: step {:.3f} s (best {:.3f}), {:.0f} tokens/s, loss {:.4f}, matrix products "
        "{:.0f} %, attention {:.0f} %, waits {:.3f} s\n",
        flags.workload, flags.checkpointing ? "on" : "off", env.size(), step_s,
        *std::min_element(seconds.begin(), seconds.end()), tokens / step_s, loss, 100 * median(products),
        100 * median(attentions), median(waits));
    const auto foreseen = static_cast<double>(predicted.total());
    fmt::print(
        "  peak memory of a process {:.0f} MiB (plan {:.0f}, {:+.1f} %: process {:.0f}, activations {:.0f}); states "
        "{:.1f} MiB, gathered at most {:.1f} MiB (plan {:.1f})\n",
        mib(peak), mib(foreseen), 100 * (foreseen / peak - 1), mib(static_cast<double>(predicted.baseline)),
        mib(static_cast<double>(predicted.activations)), mib(static_cast<double>(held.sharded())),
        mib(static_cast<double>(held.gathered_peak)), mib(static_cast<double>(plan.memory.gathered_peak)));
    fmt::print("  sent by a rank in a step: gathered {:.2f} MiB (plan {:.2f}), reduced {:.2f} MiB (plan {:.2f})\n",
               mib(gathered), mib(static_cast<double>(plan.gathered_sent)), mib(reduced),
               mib(static_cast<double>(plan.reduced_sent)));
  }
  work.close();
  transports.close();
}

}  // namespace

int main(int argc, char** argv) {
  keep_freed_memory();
  Flags flags;
  try {
    if (!parse(flags, argc, argv)) return 0;
    comm::MpiOptions options;
    options.progress_thread = flags.progress_thread;
    bench::run_job(options, [&](comm::MpiEnv& env) { measure(flags, env); });
  } catch (const std::exception& error) {
    fmt::print(stderr, "error: {}\n", error.what());
    return 2;
  }
}
