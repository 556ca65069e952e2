#include "tessera/train/step.hpp"

#include <ATen/ops/stack.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "tessera/comm/communicator.hpp"
#include "tessera/core/exact_sum.hpp"
#include "tessera/nn/upload.hpp"

namespace tessera::train {

namespace {

// What the ranks add up before the forward pass: with it every loss is a mean over the global batch.
struct GlobalCounts {
  std::int64_t target_tokens = 0, masks = 0, micro_batches = 0, samples = 0, tokens = 0, padding = 0;
};

struct OwnCounts {
  std::int64_t target_tokens = 0, masks = 0, samples = 0, tokens = 0, padding = 0;
};

OwnCounts counts_of(const models::LisaBatch& batch) {
  const auto counts = models::count_targets(batch);
  const auto tokens = batch.attention_mask.sum().item<std::int64_t>();
  return {counts.target_tokens, counts.masks, batch.images_count(), tokens, batch.attention_mask.numel() - tokens};
}

OwnCounts counts_of(const models::LlavaBatch& batch) {
  const auto length = batch.labels.size(1);
  const at::Tensor targets =
      batch.labels.narrow(1, std::min<std::int64_t>(1, length), std::max<std::int64_t>(0, length - 1));
  const auto tokens = batch.attention_mask.sum().item<std::int64_t>();
  return {targets.ne(-100).sum().item<std::int64_t>(), 0, batch.input_ids.size(0), tokens,
          batch.attention_mask.numel() - tokens};
}

GlobalCounts count(const std::vector<Batch>& micro_batches, comm::Communicator& control) {
  std::array<std::int64_t, 6> sums{};
  for (const auto& batch : micro_batches) {
    const auto counts = std::visit([](const auto& own) { return counts_of(own); }, batch);
    sums[0] += counts.target_tokens;
    sums[1] += counts.masks;
    sums[2] += 1;
    sums[3] += counts.samples;
    sums[4] += counts.tokens;
    sums[5] += counts.padding;
  }
  control.all_reduce({sums.data(), static_cast<std::int64_t>(sums.size()), comm::DType::i64});
  return {sums[0], sums[1], sums[2], sums[3], sums[4], sums[5]};
}

models::LossScale scale_of(const GlobalCounts& counts) {
  return {static_cast<double>(std::max<std::int64_t>(1, counts.target_tokens)),
          static_cast<double>(std::max<std::int64_t>(1, counts.masks))};
}

// Sums without rounding: the logged losses have the same bits for any number of ranks, as the weights do.
struct LossSums {
  static constexpr std::size_t kParts = 5;
  std::array<ExactSum, kParts> sums{};
  std::vector<at::Tensor> waiting{};  // f32 [kParts] of each micro-batch

  // Does not read the values: a GPU would have to finish the forward before the backward is given to it.
  void add(const StepLosses& out) {
    std::vector<at::Tensor> parts;
    for (const at::Tensor* part : {&out.loss, &out.ce_loss, &out.mask_bce_loss, &out.mask_dice_loss, &out.mask_loss})
      parts.push_back(part->detach().to(at::kFloat));
    waiting.push_back(at::stack(parts));
  }
  void read(double factor) {
    for (const at::Tensor& losses : waiting) {
      const at::Tensor host = losses.to(at::kCPU);
      for (std::size_t i = 0; i < kParts; ++i) sums[i].add(factor * host.const_data_ptr<float>()[i]);
    }
    waiting.clear();
  }
  void over_all_ranks(comm::Communicator& control) {
    std::vector<std::int64_t> words;
    for (auto& sum : sums) words.insert(words.end(), sum.words().begin(), sum.words().end());
    control.all_reduce({words.data(), static_cast<std::int64_t>(words.size()), comm::DType::i64});
    auto from = words.begin();
    for (auto& sum : sums) {
      std::copy_n(from, sum.words().size(), sum.words().begin());
      from += static_cast<std::ptrdiff_t>(sum.words().size());
    }
  }
};

}  // namespace

namespace {

at::ScalarType scalar_of(shard::ComputeType type) {
  return type == shard::ComputeType::bf16 ? at::kBFloat16 : type == shard::ComputeType::f16 ? at::kHalf : at::kFloat;
}

// Pixels or features; a batch has one or the other.
void to_engine(at::Tensor& values, const shard::EngineConfig& engine) {
  if (values.defined()) values = nn::upload(values.to(scalar_of(engine.compute)), engine.device);
}

}  // namespace

models::LlavaBatch on_device(const models::LlavaBatch& batch, const shard::EngineConfig& engine) {
  models::LlavaBatch out = batch;
  to_engine(out.images, engine);
  to_engine(out.image_features, engine);
  return out;
}

models::LisaBatch on_device(const models::LisaBatch& batch, const shard::EngineConfig& engine) {
  models::LisaBatch out = batch;
  for (at::Tensor* pixels : {&out.images, &out.images_clip, &out.sam_features, &out.clip_features})
    to_engine(*pixels, engine);
  for (auto& mask : out.masks) mask = nn::upload(mask, engine.device);
  return out;
}

StepMetrics run_step(const Recipe& recipe, shard::Engine& engine, shard::Optimizer& optimizer,
                     const std::vector<Batch>& micro_batches, std::int64_t step, const StepConfig& config,
                     LossScaler& scaler) {
  auto& control = engine.control();
  const auto counts = count(micro_batches, control);
  LossOptions options;
  options.weights = config.weights;
  if (config.global_normalization) options.scale = scale_of(counts);
  const double factor = config.global_normalization ? 1.0 : 1.0 / static_cast<double>(counts.micro_batches);

  LossSums sums;
  auto forward = [&](const Batch& micro) {
    const Batch batch = std::visit([&](const auto& own) { return Batch(on_device(own, engine.config())); }, micro);
    nn::ForwardContext ctx;
    ctx.seed = config.seed;
    ctx.step = step;
    ctx.training = true;
    ctx.sample_keys = std::visit([](const auto& own) { return own.sample_keys; }, batch);
    const auto out = recipe.forward(batch, engine, ctx, options);
    sums.add(out);
    const double multiplier = factor * scaler.scale();
    return multiplier == 1.0 ? out.loss : out.loss.mul(multiplier);
  };
  engine.begin_step();
  const auto together = static_cast<std::size_t>(engine.config().layer_major);
  for (std::size_t first = 0; first < micro_batches.size(); first += together) {
    if (together > 1) {
      std::vector<std::function<at::Tensor()>> forwards;
      for (std::size_t i = first; i < first + together; ++i) {
        forwards.emplace_back([&forward, &batch = micro_batches.at(i)] { return forward(batch); });
      }
      engine.run_layer_major(forwards);
      continue;
    }
    engine.begin_pass(shard::Pass::train);
    engine.backward(forward(micro_batches[first]));
    engine.end_pass();
  }
  engine.reduce_held();

  StepMetrics metrics;
  metrics.step = step;
  metrics.loss_scale = scaler.scale();
  if (config.adalora != nullptr) metrics.orth_reg = config.adalora->regularise(scaler.scale());
  const auto gradients = engine.check_gradients();
  metrics.grad_norm = gradients.norm / scaler.scale();
  metrics.skipped = !gradients.finite;
  if (!gradients.parameter.empty()) {
    metrics.skip_reason = fmt::format("rank {}, parameter {}", gradients.rank, gradients.parameter);
  }
  const auto update = TraceLog::Clock::now();
  const double grad_scale = shard::clip_scale(metrics.grad_norm, config.max_grad_norm) / scaler.scale();
  const bool allocates = !metrics.skipped && config.adalora != nullptr;
  if (allocates) config.adalora->before_update();
  if (!metrics.skipped) optimizer.step(grad_scale);
  if (allocates) config.adalora->allocate(step, grad_scale);
  if (config.trace != nullptr) {
    config.trace->add(TraceLog::Row::compute, "optimizer", update, TraceLog::Clock::now());
  }
  scaler.update(gradients.finite);
  engine.end_step();

  sums.read(factor);
  sums.over_all_ranks(control);
  metrics.loss = sums.sums[0].value();
  if (metrics.orth_reg) metrics.loss += config.adalora->weight() * *metrics.orth_reg;
  metrics.ce_loss = sums.sums[1].value();
  metrics.mask_bce_loss = sums.sums[2].value();
  metrics.mask_dice_loss = sums.sums[3].value();
  metrics.mask_loss = sums.sums[4].value();
  metrics.tokens = counts.tokens;
  metrics.samples = counts.samples;
  metrics.padding = counts.padding;
  return metrics;
}

}  // namespace tessera::train
