#include "tessera/train/optimization_flags.hpp"

#include "tessera/core/error.hpp"
#include "tessera/train/param_groups.hpp"

namespace tessera::train {

BestMetricConfig best_metric_of(const OptimizationFlags& f) {
  // As transformers has it: names without their prefix, and less is better of losses alone.
  const bool prefixed = f.metric_for_best_model.starts_with("eval_");
  const std::string metric = f.metric_for_best_model.substr(prefixed ? 5 : 0);
  return {metric, f.greater_is_better.value_or(metric != "loss"), f.early_stopping_patience,
          f.early_stopping_threshold};
}

void bind(Options& o, OptimizationFlags& f) {
  const OptionInfo optim{.group = "Optimisation"};
  const OptionInfo positive{.group = "Optimisation", .min = 0};
  o.add("lr_groups", &f.lr_groups,
        "REGEX=LR or REGEX=LR:DECAY: peak rate and decay of the parameters in whose names the expression is found; of "
        "several the first counts, and what the recipe trains without decay stays without",
        optim);
  o.add("max_grad_value", &f.max_grad_value,
        "clip each element of the gradient to this size, after the clipping by norm; 0: never", positive);
  o.add("ema_decay", &f.ema_decay,
        "keep a running average of the trained weights, decay of it a step; 0: none. The first step's weights start it",
        positive);
  o.add("ema_use", &f.ema_use, "where the average stands for the weights: validation, export or both",
        {.group = "Optimisation", .choices = {"both", "eval", "export", "none"}});
  o.add("metric_for_best_model", &f.metric_for_best_model,
        "which value of a validation says which checkpoint is best; default: giou, or loss where there are no masks",
        {.group = "Optimisation", .choices = {"", "giou", "ciou", "loss", "eval_giou", "eval_ciou", "eval_loss"}});
  o.add("greater_is_better", &f.greater_is_better, "of that value; default: as it is meant", optim);
  o.add("early_stopping_patience", &f.early_stopping_patience,
        "stop after that many validations in a row without a better value; 0: never", positive);
  o.add("early_stopping_threshold", &f.early_stopping_threshold, "by how much a value must be better to count there",
        positive);
  o.add("load_best_model_at_end", &f.load_best_model_at_end,
        "write out the weights of the best checkpoint in the end, not those of the last step", optim);
  o.add("label_smoothing_factor", &f.label_smoothing_factor,
        "--recipe llava: this part of each target's mass is spread over the vocabulary, in validations too", positive);
  o.add("neftune_noise_alpha", &f.neftune_noise_alpha,
        "--recipe llava: while training, noise is added to the text's embeddings (NEFTune), in a row of n positions "
        "and width D uniform in +-this / sqrt(n D); 0: none",
        positive);
}

void validate(const OptimizationFlags& f) {
  for (const auto& text : f.lr_groups) (void)rate_pattern(text);
  if (f.ema_decay >= 1) throw RequestError("--ema_decay {} must be below 1", f.ema_decay);
  if (f.ema_decay == 0 && f.ema_use != "both") {
    throw RequestError("--ema_use {} says where an average is used: pass --ema_decay as well", f.ema_use);
  }
  if (f.early_stopping_threshold > 0 && f.early_stopping_patience == 0)
    throw RequestError("--early_stopping_threshold needs --early_stopping_patience");
  if (f.label_smoothing_factor >= 1)
    throw RequestError("--label_smoothing_factor {} must be below 1", f.label_smoothing_factor);
}

}  // namespace tessera::train
