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

Validation::Validation(const TrainRequest& request, LoadedModel& model, const StoredFeatures& features,
                       const comm::Fabric& fabric, const Log& log, RunLog& run_log)
    : request_(request),
      model_(model),
      log_(log),
      run_log_(run_log),
      shards_(comm::made_everywhere(*fabric.control, [&] { return validation_shards(request, model); })) {
  if (!shards_) return;
  loader_.emplace(features.for_validation(model.input_spec(request.loader.model_max_length)), *shards_, fabric.rank(),
                  fabric.size(),
                  data::EvalLoader::Limits{request.loader.workers, request.loader.prefetch_mib, request.max_val_items});
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
  if (giou <= best_giou_) return false;
  best_giou_ = giou;
  return true;
}

bool Validation::loss(std::int64_t step) {
  const auto result = evaluate_loss(*model_.recipe, *model_.engine, *loader_);
  log_.info("validation at step {}: loss {:.4f}  over {} tokens of {} samples in {:.1f} s", step, result.loss,
            result.tokens, result.samples, result.seconds);
  run_log_.validation_loss(step, result.loss, result.tokens, result.samples);
  if (best_loss_ && !(result.loss < *best_loss_)) return false;
  best_loss_ = result.loss;
  return true;
}

void Validation::put_state(nlohmann::json& state) const {
  state["best_giou"] = best_giou_;
  if (best_loss_) state["best_loss"] = *best_loss_;
}

void Validation::restore(const nlohmann::json& state) {
  best_giou_ = state.at("best_giou").get<double>();
  if (state.contains("best_loss")) best_loss_ = state.at("best_loss").get<double>();
}

}  // namespace tessera::train
