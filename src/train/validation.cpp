#include "train/validation.hpp"

#include "tessera/comm/agree.hpp"
#include "tessera/core/error.hpp"
#include "tessera/train/evaluate.hpp"

namespace tessera::train {

std::optional<data::Shards> validation_shards(const TrainRequest& request, const LoadedModel& model) {
  const auto& train = request.train;
  if (request.val_shards.empty() || train.no_eval) return std::nullopt;
  // `prepare` makes a validation split for masks alone; conversations that are held back are a folder of their own.
  const bool masked = model.recipe->segments() != nullptr;
  return data::Shards::open(request.val_shards, masked ? "val" : "train",
                            {model.tokenizer.content_hash(), train.reference.conv_type, train.recipe});
}

namespace {

// Throws RequestError for a metric that the family has not, and for a patience without validations.
BestMetricConfig metric_of(const TrainRequest& request, bool masked) {
  const auto& flags = request.train.optimization;
  auto config = best_metric_of(flags);
  if (config.metric.empty()) config.metric = masked ? "giou" : "loss";
  if (masked == (config.metric == "loss")) {
    throw RequestError("--metric_for_best_model {}: a validation of --recipe {} has {}", flags.metric_for_best_model,
                       request.train.recipe, masked ? "giou and ciou" : "loss");
  }
  config.greater_is_better = flags.greater_is_better.value_or(config.metric != "loss");
  const bool validates = !request.val_shards.empty() && !request.train.no_eval;
  if (flags.early_stopping_patience > 0 && !validates)
    throw RequestError("--early_stopping_patience counts validations: pass --val_shards, and not --no_eval");
  if (flags.load_best_model_at_end && !validates)
    throw RequestError("--load_best_model_at_end needs validations: pass --val_shards, and not --no_eval");
  return config;
}

}  // namespace

Validation::Validation(const TrainRequest& request, LoadedModel& model, const StoredFeatures& features,
                       const comm::Fabric& fabric, const Log& log, RunLog& run_log)
    : request_(request),
      model_(model),
      log_(log),
      run_log_(run_log),
      shards_(comm::made_everywhere(*fabric.control, [&] { return validation_shards(request, model); })),
      best_(metric_of(request, model.recipe->segments() != nullptr)) {
  if (!shards_) return;
  loader_.emplace(features.for_validation(model.input_spec(request.loader.model_max_length)), *shards_, fabric.rank(),
                  fabric.size(),
                  data::EvalLoader::Limits{request.loader.workers, request.loader.prefetch_mib, request.max_val_items,
                                           request.val_count_padding});
}

bool Validation::run(std::int64_t step, const std::filesystem::path& overlays) {
  run_log_.clear_bar();
  if (!loader_) throw RequestError("--eval_only needs --val_shards");
  return model_.recipe->segments() != nullptr ? masks(step, overlays) : loss(step);
}

bool Validation::masks(std::int64_t step, const std::filesystem::path& overlays) {
  const auto result = evaluate(*model_.recipe->segments(), *model_.engine, *loader_, overlays,
                               overlays.empty() ? 0 : request_.train.vis_samples);
  const double giou = result.all.giou();
  log_.info("validation at step {}: gIoU {:.4f}  cIoU {:.4f}  over {} masks in {:.1f} s", step, giou, result.all.ciou(),
            result.all.masks(), result.seconds);
  run_log_.validation(step, giou, result.all.ciou(), result.all.masks());
  return best_.add(best_.config().metric == "ciou" ? result.all.ciou() : giou);
}

bool Validation::loss(std::int64_t step) {
  const auto result = evaluate_loss(*model_.recipe, *model_.engine, *loader_);
  log_.info("validation at step {}: loss {:.4f}  over {} tokens of {} samples in {:.1f} s", step, result.loss,
            result.tokens, result.samples, result.seconds);
  run_log_.validation_loss(step, result.loss, result.tokens, result.samples);
  return best_.add(result.loss);
}

void Validation::put_state(nlohmann::json& state) const {
  state["best_metric"] = best_.state();
}

void Validation::restore(const nlohmann::json& state) {
  const auto& made = state.at("best_metric");
  if (best_.restore(made)) return;
  log_.warn("the validations so far were judged by {}, from here on by {}: which is best counts from anew",
            made.at("metric").get<std::string>(), best_.config().metric);
}

}  // namespace tessera::train
