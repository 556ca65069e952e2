#include "tessera/train/config.hpp"

#include <cmath>

#include "tessera/core/error.hpp"

namespace tessera::train {

namespace {

void bind_model(Options& o, TrainConfig& c) {
  const OptionInfo model{.group = "Model"};
  o.add("version", &c.version, "folder of the base LLaVA weights or of a finished LISA model",
        {.group = "Model", .required = true});
  o.add("vision_tower", &c.vision_tower, "CLIP folder; default: the one that the model's config.json names", model);
  o.add("vision_pretrained", &c.vision_pretrained, "SAM weights (.pth or .safetensors) where the model folder has none",
        model);
  o.add("hub_dir", &c.hub_dir, "folder in which model names are looked up", model);
  o.add("precision", &c.precision, "arithmetic; default bf16 on GPUs, fp32 on CPUs",
        {.group = "Model", .choices = {"", "fp32", "bf16", "fp16"}});
  o.add("random_init", &c.random_init, "draw every weight that no file holds, instead of refusing", model);
  o.add("out_dim", &c.out_dim, "width of text_hidden_fcs' output", {.group = "Model", .min = 1});
}

void bind_llava(Options& o, TrainConfig& c) {
  const OptionInfo llava{.group = "LLaVA (--recipe llava)"};
  const OptionInfo rate{.group = "LLaVA (--recipe llava)", .min = 0};
  o.add("mm_vision_select_layer", &c.mm_vision_select_layer,
        "hidden state of the tower that is taken, from the end when negative; default: as config.json says, or -2",
        llava);
  o.add("mm_vision_select_feature", &c.mm_vision_select_feature, "with the class token or without",
        {.group = "LLaVA (--recipe llava)", .choices = {"", "patch", "cls_patch"}});
  o.add("mm_projector_type", &c.mm_projector_type, "linear, mlp2x_gelu, …; default: as config.json says, or linear",
        llava);
  o.add("image_aspect_ratio", &c.image_aspect_ratio, "square: the processor's resize and crop; pad: to a square first",
        {.group = "LLaVA (--recipe llava)", .choices = {"square", "pad"}});
  o.add("pretrain_mm_mlp_adapter", &c.pretrain_mm_mlp_adapter, "mm_projector.bin that stage one wrote", llava);
  o.add("tune_mm_mlp_adapter", &c.tune_mm_mlp_adapter, "stage one: train the projector alone, write mm_projector.bin",
        llava);
  o.add("freeze_mm_mlp_adapter", &c.freeze_mm_mlp_adapter, "the projector stays as it is", llava);
  o.add("freeze_backbone", &c.freeze_backbone, "the language model stays as it is, but for the head", llava);
  o.add("lora_enable", &c.lora_enable, "LoRA on the language model instead of training it", llava);
  o.add("unfreeze_mm_vision_tower", &c.unfreeze_mm_vision_tower, "train the vision tower as well", llava);
  o.add("mm_projector_lr", &c.mm_projector_lr, "peak learning rate of the projector; 0: --lr", rate);
  o.add("mm_vision_tower_lr", &c.mm_vision_tower_lr, "peak learning rate of the vision tower; 0: --lr", rate);
}

void bind_trained_parts(Options& o, TrainConfig& c) {
  const OptionInfo trained{.group = "What trains"};
  o.add(
      "train_scope", &c.train_scope,
      "lisa: LoRA, embed_tokens, lm_head, text_hidden_fcs and the mask decoder; lora: LoRA and modules_to_save alone; "
      "full: every parameter",
      {.group = "What trains", .choices = {"lisa", "lora", "full"}});
  o.add("lora_r", &c.lora_r, "rank of LoRA; 0 trains the language model itself", {.group = "What trains", .min = 0});
  o.add("lora_alpha", &c.lora_alpha, "LoRA's scale is lora_alpha / lora_r", trained);
  o.add("lora_dropout", &c.lora_dropout, "dropout on LoRA's input", {.group = "What trains", .min = 0});
  o.add("lora_target_modules", &c.lora_target_modules,
        "substrings of the layers that get LoRA, comma separated; the towers, "
        "the projector and text_hidden_fcs never do",
        trained);
  bind(o, c.adapter, "What trains");
  o.add("train_mask_decoder", &c.train_mask_decoder, "train SAM's mask decoder", trained);
}

void bind_optimisation(Options& o, TrainConfig& c) {
  const OptionInfo loss{.group = "Losses"};
  o.add("ce_loss_weight", &c.ce_loss_weight, "weight of the text loss", loss);
  o.add("bce_loss_weight", &c.bce_loss_weight, "weight of the mask cross-entropy", loss);
  o.add("dice_loss_weight", &c.dice_loss_weight, "weight of the mask Dice loss", loss);
  o.add("loss_normalization", &c.loss_normalization,
        "global: means over the global batch, the same for any number of ranks; micro_batch: each micro-batch counts "
        "alike, as the reference has it",
        {.group = "Losses", .choices = {"global", "micro_batch"}});
  const OptionInfo optim{.group = "Optimisation"};
  const OptionInfo positive{.group = "Optimisation", .min = 0};
  o.add(
      "optim", &c.optim, "optimiser, also under transformers' names",
      {.group = "Optimisation", .choices = {"adamw", "adamw_torch", "adamw_torch_fused", "sgd", "lion", "lion_32bit"}});
  o.add("momentum", &c.momentum, "of sgd", positive);
  o.add("lr", &c.lr, "peak learning rate", positive);
  o.add("beta1", &c.beta1, "of AdamW and Lion", positive);
  o.add("beta2", &c.beta2, "of AdamW and Lion", positive);
  o.add("adam_eps", &c.adam_eps, "of AdamW", positive);
  o.add("weight_decay", &c.weight_decay, "decoupled decay", positive);
  o.add("max_grad_norm", &c.max_grad_norm, "clip the global norm of the gradient; 0: never", positive);
  o.add("lr_scheduler_type", &c.lr_scheduler_type, "schedule of the learning rate",
        {.group = "Optimisation",
         .choices = {"warmup_decay", "linear", "cosine", "polynomial", "inverse_sqrt", "constant",
                     "constant_with_warmup"}});
  o.add("warmup_steps", &c.warmup_steps, "optimiser steps of linear warm-up", positive);
  o.add("warmup_ratio", &c.warmup_ratio, "above 0: warm-up is this part of all steps, whatever --warmup_steps says",
        positive);
  o.add("lr_power", &c.lr_power, "power of the polynomial schedule", positive);
  o.add("lr_end", &c.lr_end, "rate at which the polynomial schedule ends", positive);
  o.add("lr_first_step_full", &c.lr_first_step_full, "run step 1 at the full rate, as DeepSpeed up to 0.15.2 did",
        optim);
  o.add("epochs", &c.epochs, "epochs of steps_per_epoch optimiser steps", positive);
  o.add("steps_per_epoch", &c.steps_per_epoch, "optimiser steps from one validation to the next",
        {.group = "Optimisation", .min = 1});
  o.add("max_steps", &c.max_steps, "stop after that many optimiser steps; 0: epochs * steps_per_epoch", positive);
  o.add("max_skipped_steps", &c.max_skipped_steps,
        "fail after that many steps in a row with a gradient that is not finite", positive);
}

void bind_run(Options& o, TrainConfig& c) {
  const OptionInfo run{.group = "Run"};
  o.add("log_base_dir", &c.log_base_dir, "run folders lie here", run);
  o.add("exp_name", &c.exp_name, "name of this run's folder", run);
  o.add("resume", &c.resume, "checkpoint folder to go on from, or auto: the newest whole one of this run", run);
  o.add("auto_resume", &c.auto_resume, "go on from this run's newest whole checkpoint if there is one", run);
  o.add("no_eval", &c.no_eval, "no validation", run);
  o.add("eval_only", &c.eval_only, "one validation and exit", run);
  o.add("print_freq", &c.print_freq, "a progress line every that many steps", {.group = "Run", .min = 1});
  o.add("save_steps", &c.save_steps, "a checkpoint every that many steps; 0: at the end of each epoch",
        {.group = "Run", .min = 0});
  o.add("save_total_limit", &c.save_total_limit, "checkpoints kept besides the best", {.group = "Run", .min = 1});
  o.add("keep_last", &c.keep_last, "another name of --save_total_limit; when given, it is the one that counts",
        {.group = "Run", .min = 1});
  o.add("async_save", &c.async_save,
        "write checkpoints from a copy in host memory while the next steps run; false: write first, then go on", run);
  o.add("vis_samples", &c.vis_samples, "overlays written by the last validation", {.group = "Run", .min = 0});
  o.add("export_merged", &c.export_merged, "write the merged model folder at the end", run);
  const OptionInfo engine{.group = "Engine"};
  bind(o, c.engine);
  o.add("trace", &c.trace,
        "file for a timeline of all ranks in Chrome's trace format, which Perfetto opens; empty: none", engine);
  o.add("comm_timeout_s", &c.comm_timeout_s, "end the job when a collective takes longer",
        {.group = "Engine", .unit = "s", .min = 1});
}

void bind_ignored(Options& o) {
  o.add_ignored("local_rank", "ranks come from mpirun");
  o.add_ignored("exclude_val", "the reference stores it and never uses it");
  o.add_ignored("start_epoch", "a resumed run goes on at the step of its checkpoint");
  o.add_ignored("vis_save_path", "training writes its pictures into the run folder; `tessera chat` takes this flag");
}

}  // namespace

void set_recipe_defaults(TrainConfig& config, const std::string& recipe) {
  config.recipe = recipe;
  if (recipe == "lisa") return;
  if (recipe != "llava") throw RequestError("--recipe '{}' is unknown; choose lisa or llava", recipe);
  // LLaVA's TrainingArguments and transformers'.
  config.lr = 5e-5;
  config.beta2 = 0.999;
  config.lr_scheduler_type = "linear";
  config.warmup_steps = 0;
  config.lora_r = 64;
  config.lora_target_modules = "all-linear";
  config.exp_name = "llava";
}

void bind(Options& options, TrainConfig& config) {
  options.add("recipe", &config.recipe, "the family of models, whose trainer's defaults hold: lisa or llava",
              {.group = "Model", .choices = {"lisa", "llava"}});
  bind_model(options, config);
  bind_llava(options, config);
  bind_trained_parts(options, config);
  bind_optimisation(options, config);
  bind_run(options, config);
  bind_ignored(options);
}

namespace {

void validate_llava(const TrainConfig& c) {
  if (c.tune_mm_mlp_adapter && c.freeze_mm_mlp_adapter) {
    throw RequestError("--tune_mm_mlp_adapter and --freeze_mm_mlp_adapter leave nothing to train");
  }
  if (c.tune_mm_mlp_adapter && c.lora_enable) {
    throw RequestError("--tune_mm_mlp_adapter trains the projector alone and contradicts --lora_enable");
  }
  if (c.lora_enable && c.freeze_backbone) {
    throw RequestError("--lora_enable leaves the language model's own weights as they are; drop --freeze_backbone");
  }
  if (!c.lora_enable) check_no_adapter(c.adapter, "--lora_enable");
  if (c.lora_enable && c.lora_r == 0) throw RequestError("--lora_enable needs a --lora_r above 0");
  if (c.mm_vision_tower_lr > 0 && !c.unfreeze_mm_vision_tower) {
    throw RequestError("--mm_vision_tower_lr is the rate of a tower that trains: pass --unfreeze_mm_vision_tower");
  }
  if (c.mm_projector_lr > 0 && c.freeze_mm_mlp_adapter) {
    throw RequestError("--mm_projector_lr is the rate of a projector that --freeze_mm_mlp_adapter keeps as it is");
  }
  if (c.train_scope != "lisa") throw RequestError("--train_scope is LISA's; --recipe llava has its stages' flags");
}

}  // namespace

ScheduleConfig schedule_of(const TrainConfig& c) {
  ScheduleConfig out{c.lr_scheduler_type, c.warmup_steps, c.total_steps(), c.lr_first_step_full};
  // transformers rounds up.
  if (c.warmup_ratio > 0) {
    out.warmup_steps = static_cast<std::int64_t>(std::ceil(c.warmup_ratio * static_cast<double>(c.total_steps())));
  }
  out.power = c.lr_power;
  out.end = c.lr > 0 ? c.lr_end / c.lr : 0.0;
  return out;
}

void validate(const TrainConfig& c) {
  validate(c.engine);
  if (c.lora_dropout >= 1) throw RequestError("--lora_dropout {} must be below 1", c.lora_dropout);
  if (c.train_scope == "full" && c.lora_r > 0) {
    throw RequestError("--train_scope full trains every parameter: pass --lora_r 0 with it");
  }
  if (c.lora_r == 0) {
    check_no_adapter(c.adapter);
    if (c.train_scope == "lora") throw RequestError("--train_scope lora needs --lora_r above 0");
  }
  if (c.lora_r > 0 && c.lora_target_modules.empty() && c.adapter.target_modules.empty()) {
    throw RequestError("--lora_target_modules is empty while --lora_r is {}", c.lora_r);
  }
  if (c.recipe == "llava") {
    validate_llava(c);
  } else if (c.lora_enable || c.tune_mm_mlp_adapter || c.freeze_mm_mlp_adapter || c.freeze_backbone ||
             c.unfreeze_mm_vision_tower || !c.pretrain_mm_mlp_adapter.empty() || c.mm_projector_lr > 0 ||
             c.mm_vision_tower_lr > 0 || c.mm_vision_select_layer || !c.mm_vision_select_feature.empty() ||
             !c.mm_projector_type.empty() || c.image_aspect_ratio != "square") {
    throw RequestError("flags of LLaVA's stages are given without --recipe llava");
  }
  if (c.total_steps() <= 0 && !c.eval_only) throw RequestError("--epochs and --max_steps leave no step to train");
  if (c.warmup_ratio > 1) throw RequestError("--warmup_ratio {} is above 1", c.warmup_ratio);
  if (c.momentum > 0 && c.optim != "sgd") throw RequestError("--momentum is sgd's; --optim is {}", c.optim);
  if (c.momentum >= 1) throw RequestError("--momentum {} must be below 1", c.momentum);
  if (c.lr_scheduler_type == "polynomial" && c.lr_end > c.lr) {
    throw RequestError("--lr_end {} is above --lr {}", c.lr_end, c.lr);
  }
  if (c.beta1 >= 1 || c.beta2 >= 1) throw RequestError("--beta1 {} and --beta2 {} must be below 1", c.beta1, c.beta2);
}

}  // namespace tessera::train
