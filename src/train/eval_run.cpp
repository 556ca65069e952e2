#include "tessera/train/eval_run.hpp"

#include <nlohmann/json.hpp>

#include "tessera/comm/agree.hpp"
#include "tessera/train/model_setup.hpp"

namespace tessera::train {

EvalResult run_evaluation(const EvalRequest& request, const comm::Fabric& fabric, c10::Device device, const Log& log) {
  const auto model = load_model(request.model, fabric, device, request.seed, /*for_training=*/false, log);
  const data::ShardRequirements requirements{model.tokenizer.content_hash(), {}, "lisa"};
  const auto shards = comm::made_everywhere(
      *fabric.control, [&] { return data::Shards::open(request.shards, request.split, requirements); });
  data::EvalLoader loader(model.input_spec(request.model_max_length), shards, fabric.rank(), fabric.size(),
                          {request.workers, 1024, request.max_items, request.count_padding});
  EvalResult result;
  result.model = evaluate(*model.recipe->segments(), *model.engine, loader, request.overlay_dir,
                          request.overlay_dir.empty() ? 0 : request.overlays);
  if (!request.baseline_shards.empty()) {
    const auto train = data::Shards::open(request.baseline_shards, "train", {});
    result.baseline = mean_mask_baseline(train, shards, *fabric.control);
  }
  log.info("{} masks in {:.1f} s", result.model.all.masks(), result.model.seconds);
  return result;
}

std::string to_json(const EvalResult& result) {
  auto figures = [](const IouSum& sum) {
    return nlohmann::ordered_json{{"giou", sum.giou()}, {"ciou", sum.ciou()}, {"masks", sum.masks()}};
  };
  nlohmann::ordered_json json = figures(result.model.all);
  json["short"] = figures(result.model.short_questions);
  json["long"] = figures(result.model.long_questions);
  if (result.baseline) json["baseline"] = figures(*result.baseline);
  return json.dump();
}

}  // namespace tessera::train
