#include "tessera/train/step.hpp"

#include <array>
#include <cmath>

#include "tessera/comm/communicator.hpp"

namespace tessera::train {

namespace {

// What the ranks add up before the forward pass: with it every loss is a mean over the global batch.
struct GlobalCounts {
  std::int64_t target_tokens = 0, masks = 0, micro_batches = 0, samples = 0, tokens = 0;
};

GlobalCounts count(const std::vector<models::LisaBatch>& micro_batches, comm::Communicator& control) {
  std::array<std::int64_t, 5> sums{};
  for (const auto& batch : micro_batches) {
    const auto counts = models::count_targets(batch);
    sums[0] += counts.target_tokens;
    sums[1] += counts.masks;
    sums[2] += 1;
    sums[3] += batch.images_count();
    sums[4] += batch.attention_mask.sum().item<std::int64_t>();
  }
  control.all_reduce({sums.data(), static_cast<std::int64_t>(sums.size()), comm::DType::i64});
  return {sums[0], sums[1], sums[2], sums[3], sums[4]};
}

models::LossScale scale_of(const GlobalCounts& counts) {
  return {static_cast<double>(std::max<std::int64_t>(1, counts.target_tokens)),
          static_cast<double>(std::max<std::int64_t>(1, counts.masks))};
}

struct LossSums {
  std::array<double, 5> values{};
  void add(const models::LisaOutputs& out, double factor) {
    const std::array<const at::Tensor*, 5> parts{&out.loss, &out.ce_loss, &out.mask_bce_loss, &out.mask_dice_loss,
                                                 &out.mask_loss};
    for (std::size_t i = 0; i < parts.size(); ++i) values[i] += factor * parts[i]->item<double>();
  }
};

}  // namespace

models::LisaBatch on_device(const models::LisaBatch& batch, const shard::EngineConfig& engine) {
  if (engine.device.is_cpu() && engine.compute == shard::ComputeType::f32) return batch;
  const auto compute = engine.compute == shard::ComputeType::bf16  ? at::kBFloat16
                       : engine.compute == shard::ComputeType::f16 ? at::kHalf
                                                                   : at::kFloat;
  models::LisaBatch out = batch;
  out.images = batch.images.to(engine.device, compute);
  out.images_clip = batch.images_clip.to(engine.device, compute);
  out.input_ids = batch.input_ids.to(engine.device);
  out.labels = batch.labels.to(engine.device);
  out.attention_mask = batch.attention_mask.to(engine.device);
  for (auto& mask : out.masks) mask = mask.to(engine.device);
  return out;
}

StepMetrics run_step(const models::LisaModel& model, shard::Engine& engine, shard::AdamW& optimizer,
                     const std::vector<models::LisaBatch>& micro_batches, std::int64_t step, const StepConfig& config) {
  auto& control = engine.control();
  const auto counts = count(micro_batches, control);
  models::LisaForwardOptions options;
  options.weights = config.weights;
  if (config.global_normalization) options.scale = scale_of(counts);
  const double factor = config.global_normalization ? 1.0 : 1.0 / static_cast<double>(counts.micro_batches);

  LossSums sums;
  engine.begin_step();
  for (const auto& batch : micro_batches) {
    nn::ForwardContext ctx;
    ctx.seed = config.seed;
    ctx.step = step;
    ctx.training = true;
    ctx.sample_keys = batch.sample_keys;
    engine.begin_pass(shard::Pass::train);
    const auto out = model.forward(on_device(batch, engine.config()), engine, ctx, options);
    engine.backward(factor == 1.0 ? out.loss : out.loss.mul(factor));
    engine.end_pass();
    sums.add(out, factor);
  }
  engine.reduce_held();

  StepMetrics metrics;
  metrics.step = step;
  metrics.grad_norm = engine.grad_norm();
  metrics.skipped = !std::isfinite(metrics.grad_norm);
  if (!metrics.skipped) optimizer.step(shard::clip_scale(metrics.grad_norm, config.max_grad_norm));
  engine.end_step();

  control.all_reduce({sums.values.data(), static_cast<std::int64_t>(sums.values.size()), comm::DType::f64});
  metrics.loss = sums.values[0];
  metrics.ce_loss = sums.values[1];
  metrics.mask_bce_loss = sums.values[2];
  metrics.mask_dice_loss = sums.values[3];
  metrics.mask_loss = sums.values[4];
  metrics.tokens = counts.tokens;
  metrics.samples = counts.samples;
  return metrics;
}

}  // namespace tessera::train
