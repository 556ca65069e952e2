// Flags of losses, optimiser, schedule and the lengths of a run.
#include <algorithm>
#include <cmath>

#include "tessera/core/error.hpp"
#include "train/config_parts.hpp"

namespace tessera::train {

namespace {

void bind_losses(Options& o, TrainConfig& c) {
  const OptionInfo loss{.group = "Losses"};
  o.add("ce_loss_weight", &c.ce_loss_weight, "weight of the text loss", loss);
  o.add("bce_loss_weight", &c.bce_loss_weight, "weight of the mask cross-entropy", loss);
  o.add("dice_loss_weight", &c.dice_loss_weight, "weight of the mask Dice loss", loss);
  o.add("loss_normalization", &c.loss_normalization,
        "global: means over the global batch, the same for any number of ranks; micro_batch: each micro-batch counts "
        "alike, as the reference has it",
        {.group = "Losses", .choices = {"global", "micro_batch"}});
}

void bind_optimisation(Options& o, TrainConfig& c) {
  const OptionInfo optim{.group = "Optimisation"};
  const OptionInfo positive{.group = "Optimisation", .min = 0};
  o.add("optim", &c.optim, "optimiser, also under transformers' names",
        {.group = "Optimisation",
         .choices = {"adamw", "adamw_torch", "adamw_torch_fused", "adamw_8bit", "adamw_bnb_8bit", "sgd", "lion",
                     "lion_32bit"}});
  o.add("momentum", &c.momentum, "of sgd", positive);
  o.add("lr", &c.lr, "peak learning rate", positive);
  o.add("beta1", &c.beta1, "of AdamW and Lion", positive);
  o.add("beta2", &c.beta2, "of AdamW and Lion", positive);
  o.add("adam_eps", &c.adam_eps, "of AdamW", positive);
  o.add("weight_decay", &c.weight_decay, "decoupled decay", positive);
  o.add("max_grad_norm", &c.max_grad_norm, "clip the global norm of the gradient; 0: never", positive);
  o.add("lr_scheduler_type", &c.lr_scheduler_type, "schedule of the learning rate",
        {.group = "Optimisation",
         .choices = {"warmup_decay", "warmup_decay_log", "warmup", "warmup_log", "warmup_cosine", "warmup_cosine_log",
                     "linear", "cosine", "polynomial", "inverse_sqrt", "constant", "constant_with_warmup"}});
  o.add("warmup_steps", &c.warmup_steps,
        "optimiser steps of warm-up; DeepSpeed's schedules, warmup…, make two of one. 0: none, which DeepSpeed refuses",
        positive);
  o.add("warmup_ratio", &c.warmup_ratio,
        "above 0: warm-up is this part of all steps, whatever --warmup_steps says; with --recipe llava only where that "
        "is 0",
        positive);
  o.add("lr_power", &c.lr_power, "power of the polynomial schedule", positive);
  o.add("lr_end", &c.lr_end, "rate at which the polynomial and warmup_cosine schedules end", positive);
  o.add("lr_first_step_full", &c.lr_first_step_full, "run step 1 at the full rate, as DeepSpeed up to 0.15.2 did",
        optim);
  o.add("max_skipped_steps", &c.max_skipped_steps,
        "fail after that many steps in a row with a gradient that is not finite", positive);
}

void bind_lengths(Options& o, TrainConfig& c) {
  const OptionInfo positive{.group = "Optimisation", .min = 0};
  o.add("epochs", &c.epochs, "epochs of steps_per_epoch optimiser steps", positive);
  o.add("steps_per_epoch", &c.steps_per_epoch, "optimiser steps from one validation to the next",
        {.group = "Optimisation", .min = 1});
  o.add("num_train_epochs", &c.num_train_epochs,
        "passes over the data, in the place of epochs * steps_per_epoch; an epoch is then one pass, of whole steps "
        "rounded up (transformers rounds down where gradients are accumulated)",
        {.group = "Optimisation"});
  o.add("max_steps", &c.max_steps, "stop after that many optimiser steps; 0 or less: as many as the epochs make",
        {.group = "Optimisation", .min = -1});
}

}  // namespace

void bind_optim_flags(Options& o, TrainConfig& c) {
  bind_losses(o, c);
  bind_optimisation(o, c);
  bind_lengths(o, c);
  bind(o, c.optimization);
}

void settle_lengths(TrainConfig& c, std::int64_t samples, std::int64_t images) {
  if (!c.num_train_epochs) return;
  c.steps_per_epoch = std::max<std::int64_t>(1, (samples + images - 1) / images);
  if (c.max_steps > 0) return;
  c.max_steps = std::max<std::int64_t>(
      1, static_cast<std::int64_t>(std::ceil(*c.num_train_epochs * static_cast<double>(c.steps_per_epoch))));
}

ScheduleConfig schedule_of(const TrainConfig& c) {
  ScheduleConfig out{c.lr_scheduler_type, c.warmup_steps, c.total_steps(), c.lr_first_step_full};
  // transformers rounds up, and lets a number of steps win over a share of them.
  if (c.warmup_ratio > 0 && !(c.recipe == "llava" && c.warmup_steps > 0)) {
    out.warmup_steps = static_cast<std::int64_t>(std::ceil(c.warmup_ratio * static_cast<double>(c.total_steps())));
  }
  out.power = c.lr_power;
  out.end = c.lr > 0 ? c.lr_end / c.lr : 0.0;
  return out;
}

void check_optim_flags(const TrainConfig& c) {
  const bool passes = c.num_train_epochs && c.max_steps <= 0;
  if (passes && !(*c.num_train_epochs > 0)) {
    throw RequestError("--num_train_epochs {} leaves no step to train", *c.num_train_epochs);
  }
  if (!passes && c.total_steps() <= 0 && !c.eval_only)
    throw RequestError("--epochs and --max_steps leave no step to train");
  validate(c.optimization);
  if (c.warmup_ratio > 1) throw RequestError("--warmup_ratio {} is above 1", c.warmup_ratio);
  if (c.momentum > 0 && c.optim != "sgd") throw RequestError("--momentum is sgd's; --optim is {}", c.optim);
  if (c.momentum >= 1) throw RequestError("--momentum {} must be below 1", c.momentum);
  const bool ends = c.lr_scheduler_type == "polynomial" || c.lr_scheduler_type.starts_with("warmup_cosine");
  if (ends && c.lr_end > c.lr) {
    throw RequestError("--lr_end {} is above --lr {}", c.lr_end, c.lr);
  }
  if (c.beta1 >= 1 || c.beta2 >= 1) throw RequestError("--beta1 {} and --beta2 {} must be below 1", c.beta1, c.beta2);
}

}  // namespace tessera::train
