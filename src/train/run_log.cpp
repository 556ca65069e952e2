#include "train/run_log.hpp"

#include <fmt/format.h>

#include "tessera/core/error.hpp"

namespace tessera::train {

void RunLog::open(const std::filesystem::path& folder, std::int64_t step) {
  metrics_.emplace(folder / "metrics.jsonl", step);
  events_.emplace(folder, step);
}

void RunLog::start(std::int64_t step) {
  const auto style = progress_style(rank_);
  if (style != ProgressStyle::bar) return;
  bar_.emplace("training", config_.total_steps(), ProgressSettings{.style = style, .start = step, .unit = "steps"});
}

void RunLog::clear_bar() {
  if (bar_) bar_->clear();
}

void RunLog::step(const StepMetrics& metrics) {
  if (rank_ == 0) record(metrics);
  count_skipped(metrics);
}

void RunLog::validation(std::int64_t step, double giou, double ciou, std::int64_t masks) {
  if (!metrics_) return;
  metrics_->add_validation(step, giou, ciou, masks);
  events_->add(step, {{"val/giou", giou}, {"val/ciou", ciou}});
}

void RunLog::validation_loss(std::int64_t step, double loss, std::int64_t tokens, std::int64_t samples) {
  if (!metrics_) return;
  metrics_->add_validation_loss(step, loss, tokens, samples);
  events_->add(step, {{"val/loss", loss}});
}

void RunLog::record(const StepMetrics& m) {
  metrics_->add(m);
  events_->add(m.step, {{"train/loss", m.loss},
                        {"train/ce_loss", m.ce_loss},
                        {"train/mask_bce_loss", m.mask_bce_loss},
                        {"train/mask_dice_loss", m.mask_dice_loss},
                        {"train/mask_loss", m.mask_loss},
                        {"train/lr", m.lr.begin()->second},
                        {"train/grad_norm", m.grad_norm},
                        {"metrics/total_secs_per_batch", m.step_s},
                        {"metrics/data_secs_per_batch", m.data_wait_s}});
  if (bar_) {
    bar_->update(m.step, fmt::format("loss {:.4f}  norm {:.3f}  lr {:.2e}  {:.0f} tok/s", m.loss, m.grad_norm,
                                     m.lr.begin()->second, static_cast<double>(m.tokens) / m.step_s));
    return;
  }
  if (m.step % config_.print_freq != 0 && m.step != config_.total_steps()) return;
  const double left = static_cast<double>(config_.total_steps() - m.step) * m.step_s;
  log_.info(
      "step {}/{}  loss {:.4f} (ce {:.4f} bce {:.4f} dice {:.4f})  norm {:.3f}  lr {:.2e}  {:.2f} s (data {:.2f})  "
      "{:.0f} tok/s  {:.0f} min left",
      m.step, config_.total_steps(), m.loss, m.ce_loss, m.mask_bce_loss, m.mask_dice_loss, m.grad_norm,
      m.lr.begin()->second, m.step_s, m.data_wait_s, static_cast<double>(m.tokens) / m.step_s, left / 60);
}

void RunLog::count_skipped(const StepMetrics& m) {
  skipped_ = m.skipped ? skipped_ + 1 : 0;
  if (m.skipped) {
    clear_bar();
    log_.warn("step {}: the gradient is not finite{}; nothing was updated", m.step,
              m.skip_reason.empty() ? std::string() : " (" + m.skip_reason + ")");
  }
  if (skipped_ > config_.max_skipped_steps) {
    throw RunError(
        "{} steps in a row had gradients that were not finite; lower --lr or look at the data (--max_skipped_steps)",
        skipped_);
  }
}

}  // namespace tessera::train
