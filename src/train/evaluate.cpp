#include "tessera/train/evaluate.hpp"

#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <array>
#include <chrono>

#include "tessera/comm/agree.hpp"
#include "tessera/core/exact_sum.hpp"
#include "tessera/core/file.hpp"
#include "tessera/train/step.hpp"
#include "train/overlays.hpp"

namespace tessera::train {

namespace {

std::span<const float> pixels(const at::Tensor& t) {
  return {t.const_data_ptr<float>(), static_cast<std::size_t>(t.numel())};
}

void count(const data::EvalItem& item, const std::vector<at::Tensor>& predicted, Evaluation& result) {
  const auto& targets = item.batch.masks.at(0);
  const auto host = predicted.at(0).to(c10::Device(c10::DeviceType::CPU), at::kFloat).contiguous();
  for (std::int64_t k = 0; k < targets.size(0); ++k) {
    const at::Tensor logits = host[k].contiguous();
    const at::Tensor target = targets[k].contiguous();
    result.all.add(pixels(logits), pixels(target));
    if (item.is_sentence == 0) result.short_questions.add(pixels(logits), pixels(target));
    if (item.is_sentence == 1) result.long_questions.add(pixels(logits), pixels(target));
  }
}

ExactSum over_all_ranks(ExactSum sum, comm::Communicator& control) {
  auto& words = sum.words();
  control.all_reduce({words.data(), static_cast<std::int64_t>(words.size()), comm::DType::i64});
  return sum;
}

std::int64_t targets_of(const models::LlavaBatch& batch) {
  const auto length = batch.labels.size(1);
  return length < 2 ? 0 : batch.labels.narrow(1, 1, length - 1).ne(-100).sum().item<std::int64_t>();
}

}  // namespace

Evaluation evaluate(const models::LisaModel& model, shard::Engine& engine, data::EvalLoader& loader,
                    const std::filesystem::path& overlay_dir, std::int64_t overlays) {
  const auto start = std::chrono::steady_clock::now();
  const at::NoGradGuard no_grad;
  Evaluation result;
  auto& control = engine.control();
  models::LisaForwardOptions options;
  options.losses = false;
  engine.begin_step();
  loader.rewind();
  std::exception_ptr failed;
  for (std::int64_t call = 0; call < loader.calls(); ++call) {
    auto item = loader.next();
    nn::ForwardContext ctx;
    ctx.sample_keys = item.batch.sample_keys;
    engine.begin_pass(shard::Pass::eval);
    const auto out = model.forward(on_device(item.batch, engine.config()), engine, ctx, options);
    engine.end_pass();
    if (!item.counted) continue;
    count(item, out.pred_masks, result);
    const std::int64_t number = call * control.size() + control.rank();
    if (number >= overlays || failed) continue;
    try {
      write_overlay(overlay_dir, number, item, out.pred_masks.at(0));
    } catch (...) {
      failed = std::current_exception();  // kept until all ranks are out of the loop
    }
  }
  engine.end_step();
  comm::agree(control, failed);
  result.all.all_reduce(control);
  result.short_questions.all_reduce(control);
  result.long_questions.all_reduce(control);
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

LossEvaluation evaluate_loss(const Recipe& recipe, shard::Engine& engine, data::EvalLoader& loader) {
  const auto start = std::chrono::steady_clock::now();
  const at::NoGradGuard no_grad;
  LossOptions options;
  options.scale = models::LossScale{1.0, 1.0};  // sums
  ExactSum sum;
  std::array<std::int64_t, 2> counts{};  // tokens, samples
  engine.begin_step();
  loader.rewind();
  for (std::int64_t call = 0; call < loader.calls(); ++call) {
    const auto item = loader.next();
    nn::ForwardContext ctx;
    ctx.sample_keys = item.llava.sample_keys;
    engine.begin_pass(shard::Pass::eval);
    const auto out = recipe.forward(Batch(on_device(item.llava, engine.config())), engine, ctx, options);
    engine.end_pass();
    if (!item.counted) continue;
    sum.add(out.loss.item<double>());
    counts[0] += targets_of(item.llava);
    counts[1] += 1;
  }
  engine.end_step();
  auto& control = engine.control();
  control.all_reduce({counts.data(), static_cast<std::int64_t>(counts.size()), comm::DType::i64});
  LossEvaluation result;
  result.tokens = counts[0];
  result.samples = counts[1];
  result.loss = over_all_ranks(sum, control).value() / static_cast<double>(counts[0]);
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

}  // namespace tessera::train
