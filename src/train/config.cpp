#include "tessera/train/config.hpp"

#include "tessera/core/error.hpp"
#include "train/config_parts.hpp"

namespace tessera::train {

void set_recipe_defaults(TrainConfig& config, const std::string& recipe) {
  config.recipe = recipe;
  if (recipe == "lisa") return;
  if (recipe != "llava") throw RequestError("--recipe '{}' is unknown; choose lisa or llava", recipe);
  // LLaVA's TrainingArguments and transformers'.
  config.num_train_epochs = 3;
  config.save_steps = 500;
  config.save_total_limit = 0;
  config.lr = 5e-5;
  config.beta2 = 0.999;
  config.lr_scheduler_type = "linear";
  config.warmup_steps = 0;
  config.new_token_init = "mean";
  config.lora_r = 64;
  config.lora_target_modules = "all-linear";
  config.exp_name = "llava";
}

void bind(Options& options, TrainConfig& config) {
  options.add("recipe", &config.recipe,
              "the family of models, whose trainer's defaults hold: lisa or llava; with --help they are shown",
              {.group = "Model", .choices = {"lisa", "llava"}});
  bind_model_flags(options, config);
  bind_optim_flags(options, config);
  bind_run_flags(options, config);
  bind_reference_flags(options, config);
}

void validate(const TrainConfig& c) {
  validate(c.engine);
  check_model_flags(c);
  check_optim_flags(c);
}

}  // namespace tessera::train
