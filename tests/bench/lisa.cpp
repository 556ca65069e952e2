// A LISA training step at medium size on the CPU, from batch to update.
//   OMP_NUM_THREADS=1 mpirun -n 2 --bind-to none build/bench_lisa [--no-checkpointing] [--steps 7] [--profile]
// LLaMA: hidden 512, 8 layers, 8 heads, inner 1376, vocabulary 32003; CLIP: hidden 256, 6 layers, 4 heads, 224 pixels,
// patches of 14; SAM: 256 pixels, width 192, 4 layers (the last global), 3 heads, windows of 14, prompt width 256,
// decoder inner 2048. 2 images of 2 conversations each over all ranks, 326 positions a conversation, 24 with labels, a
// mask a conversation. LISA's own choice of what trains: LoRA r 8 on q and v, embedding, head, text_hidden_fcs, mask
// decoder. AdamW, clip 1.0. Weights, pixels and texts are drawn. The slowest rank's time, medians after two steps to
// warm up.
#include <ATen/core/Tensor.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/zeros.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <exception>
#include <vector>

#include "bench/job.hpp"
#include "bench/op_times.hpp"
#include "support/no_tensors.hpp"
#include "tessera/adapt/lora.hpp"
#include "tessera/adapt/trainable.hpp"
#include "tessera/comm/transports.hpp"
#include "tessera/core/error.hpp"
#include "tessera/core/memory.hpp"
#include "tessera/core/options.hpp"
#include "tessera/core/random.hpp"
#include "tessera/models/lisa.hpp"
#include "tessera/shard/optimizer.hpp"
#include "tessera/train/machine.hpp"

namespace {

using namespace tessera;

constexpr std::int64_t kImages = 2, kConversations = 2, kPositions = 326, kLabels = 24, kSeg = 32002;
constexpr std::int64_t kImageToken = -200;

struct Flags {
  bool checkpointing = true;
  bool resident = true;
  bool reproducible = true;
  bool profile = false;
  std::int64_t steps = 7;
};

bool parse(Flags& flags, int argc, char** argv) {
  Options options("bench_lisa", "A LISA training step at medium size, measured.");
  options.add("checkpointing", &flags.checkpointing, "recompute activations in backward", {});
  options.add("resident", &flags.resident, "gather frozen weights once, as the planner does where they fit", {});
  options.add("reproducible", &flags.reproducible, "the same bits for any number of ranks", {});
  options.add("profile", &flags.profile, "list LibTorch's operations by time", {});
  options.add("steps", &flags.steps, "measured steps", {.min = 1});
  const auto outcome = options.parse({argv + 1, argv + argc});
  if (outcome.help) std::fputs(options.help().c_str(), stdout);
  return !outcome.help;
}

models::LisaConfig medium() {
  models::LlamaConfig llama;
  llama.vocab_size = 32003;
  llama.hidden_size = 512;
  llama.intermediate_size = 1376;
  llama.layers = 8;
  llama.heads = llama.kv_heads = 8;
  llama.head_dim = llama.rope.dim = 64;
  models::LisaConfig config;
  config.language = {llama};
  config.tower.clip.hidden_size = 256;
  config.tower.clip.intermediate_size = 1024;
  config.tower.clip.layers = 6;
  config.tower.clip.heads = 4;
  config.sam.image_size = 256;
  config.sam.embed_dim = 192;
  config.sam.depth = 4;
  config.sam.num_heads = 3;
  config.sam.global_attn_indexes = {3};
  config.seg_token_id = kSeg;
  return config;
}

/// This rank's images: all of them on one rank, one each on two.
models::LisaBatch draw_batch(const models::LisaConfig& config, int rank, int size) {
  const std::int64_t images = kImages / size;
  if (images * size != kImages) throw RequestError("bench: {} images are not divided by {} ranks", kImages, size);
  const std::int64_t rows = images * kConversations;
  const std::int64_t length = kPositions - config.tower.clip.patches() + 1;
  models::LisaBatch batch;
  batch.images = at::rand({images, 3, config.sam.image_size, config.sam.image_size});
  batch.images_clip = at::rand({images, 3, config.tower.clip.image_size, config.tower.clip.image_size});
  batch.input_ids = at::full({rows, length}, 1, at::kLong);
  batch.labels = at::full({rows, length}, -100, at::kLong);
  batch.attention_mask = at::ones({rows, length}, at::kBool);
  const CounterStream stream(mix_keys(7, static_cast<std::uint64_t>(rank)));
  auto* ids = batch.input_ids.mutable_data_ptr<std::int64_t>();
  for (std::int64_t i = 0; i < rows * length; ++i) {
    const std::int64_t column = i % length;
    ids[i] = static_cast<std::int64_t>(static_cast<double>(stream.uniform(static_cast<std::uint64_t>(i))) * 32000);
    if (column == 1) ids[i] = kImageToken;
    if (column == length - 2) ids[i] = kSeg;
  }
  batch.labels.narrow(1, length - kLabels, kLabels).copy_(batch.input_ids.narrow(1, length - kLabels, kLabels));
  for (std::int64_t b = 0; b <= images; ++b) batch.offset.push_back(b * kConversations);
  for (std::int64_t b = 0; b < images; ++b) {
    batch.resize.push_back({config.sam.image_size, 192});
    batch.original.push_back({480, 360});
    batch.masks.push_back(at::rand({kConversations, 480, 360}).gt(0.5).to(at::kFloat));
  }
  return batch;
}

class Job {
 public:
  Job(const Flags& flags, const comm::Fabric& fabric)
      : config_(medium()), model_(layout_, config_), batch_(draw_batch(config_, fabric.rank(), fabric.size())) {
    adapt::LoraConfig lora;
    lora.dropout = 0;
    adapt::attach_lora(layout_, lora);
    adapt::mark_trainable(layout_, adapt::TrainScope::lisa);
    shard::EngineConfig engine;
    engine.reproducible = flags.reproducible;
    engine.policy.frozen = flags.resident ? shard::Placement::resident : shard::Placement::world;
    for (const nn::Unit& unit : layout_.units()) {
      engine.units.push_back(engine.policy);
      engine.units.back().recompute = flags.checkpointing && !unit.light;
    }
    engine_.emplace(layout_, fabric, engine);
    shard::LoadPolicy policy;
    policy.may_initialize = [](const nn::ParamState&) { return true; };
    engine_->load(testing_support::NoTensors(), policy);
    engine_->settle();
    optimizer_.emplace(*engine_, shard::OptimizerConfig{}, std::vector<shard::ParamGroup>{{"all", 1e-4, 0.0}},
                       [](const nn::ParamState&) { return std::size_t{0}; });
  }
  double step() {
    engine_->begin_step();
    engine_->begin_pass(shard::Pass::train);
    models::LisaForwardOptions options;
    options.scale = models::LossScale{static_cast<double>(kImages * kConversations * kLabels),
                                      static_cast<double>(kImages * kConversations)};
    const auto out = model_.forward(batch_, *engine_, {}, options);
    engine_->backward(out.loss);
    engine_->end_pass();
    engine_->reduce_held();
    optimizer_->step(shard::clip_scale(engine_->grad_norm(), 1.0));
    engine_->end_step();
    return out.loss.item<double>();
  }
  shard::Engine& engine() { return *engine_; }

 private:
  models::LisaConfig config_;
  nn::ModelLayout layout_;
  models::LisaModel model_;
  models::LisaBatch batch_;
  std::optional<shard::Engine> engine_;
  std::optional<shard::Optimizer> optimizer_;
};

void measure(const Flags& flags, comm::MpiEnv& env) {
  comm::Transports transports(env);
  const comm::Fabric& fabric = transports.fabric();
  auto& control = *fabric.control;
  const auto over_ranks = [&control](double mine, comm::ReduceOp op) {
    control.all_reduce({&mine, 1, comm::DType::f64}, op);
    return mine;
  };
  {
    Job job(flags, fabric);
    constexpr int kWarmUp = 2;
    std::vector<double> seconds;
    double loss = 0;
    for (std::int64_t step = 0; step < kWarmUp + flags.steps; ++step) {
      control.barrier();
      std::optional<bench::OpTimes> ops;
      const bool profiled = flags.profile && step == kWarmUp + flags.steps - 1;
      if (profiled) ops.emplace();
      const auto start = std::chrono::steady_clock::now();
      loss = job.step();
      const double mine = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
      if (profiled) {
        const auto times = ops->stop();
        if (env.rank() == 0) bench::print_top(times, mine);
      }
      const double slowest = over_ranks(mine, comm::ReduceOp::max);
      if (step >= kWarmUp) seconds.push_back(slowest);
    }
    loss = over_ranks(loss, comm::ReduceOp::sum);
    std::sort(seconds.begin(), seconds.end());
    const double peak = over_ranks(static_cast<double>(train::peak_memory_in_use(c10::Device(c10::DeviceType::CPU))),
                                   comm::ReduceOp::max);
    if (env.rank() == 0) {
      fmt::print(
          "lisa-medium checkpointing={} ranks={}: step {:.3f} s (best {:.3f}, worst {:.3f}), loss {:.4f}, peak "
          "{:.0f} MiB\n",
          flags.checkpointing ? "on" : "off", env.size(), seconds[seconds.size() / 2], seconds.front(), seconds.back(),
          loss, peak / (1 << 20));
    }
  }
  transports.close();
}

}  // namespace

int main(int argc, char** argv) {
  keep_freed_memory();
  Flags flags;
  try {
    if (!parse(flags, argc, argv)) return 0;
    bench::run_job({}, [&](comm::MpiEnv& env) { measure(flags, env); });
  } catch (const std::exception& error) {
    fmt::print(stderr, "error: {}\n", error.what());
    return 2;
  }
}
