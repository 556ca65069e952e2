#include <cstdio>

#include "cli/command.hpp"
#include "cli/devices.hpp"
#include "tessera/comm/agree.hpp"
#include "tessera/core/error.hpp"
#include "tessera/core/file.hpp"
#include "tessera/train/eval_run.hpp"

namespace tessera::cli {

int run_eval(const std::vector<std::string>& args, Session& session) {
  train::EvalRequest request;
  std::int64_t seed = 42;
  Options options("tessera eval",
                  "gIoU and cIoU of a model folder on prepared data, teacher-forced as the reference does.");
  const OptionInfo model{.group = "Model"};
  const OptionInfo data{.group = "Data"};
  options.add("version", &request.model.version, "folder of a finished LISA model",
              {.group = "Model", .required = true});
  options.add("vision_tower", &request.model.vision_tower, "CLIP folder; default: the one that config.json names",
              model);
  options.add("vision_pretrained", &request.model.vision_pretrained, "SAM weights where the model folder has none",
              model);
  options.add("hub_dir", &request.model.hub_dir, "folder in which model names are looked up", model);
  options.add("precision", &request.model.precision, "arithmetic; default bf16 on GPUs, fp32 on CPUs",
              {.group = "Model", .choices = {"", "fp32", "bf16", "fp16"}});
  options.add("val_shards", &request.shards, "prepared folder(s)", {.group = "Data", .required = true});
  options.add("random_init", &request.model.random_init, "draw every weight that no file holds, instead of refusing",
              model);
  options.add("split", &request.split, "split of the shards", data);
  options.add_ignored("model_max_length", "a validation cuts no text, as the reference's");
  options.add("max_items", &request.max_items, "the first so many items; -1: all", data);
  options.add("count_padding", &request.count_padding,
              "items that fill up the ranks' last round count again, as in LISA's own validation", data);
  options.add("workers", &request.workers, "threads that read and decode, per rank", {.group = "Data", .min = 1});
  options.add("vis_save_path", &request.overlay_dir, "folder for overlays; empty: none", {.group = "Output"});
  options.add("vis_samples", &request.overlays, "overlays written", {.group = "Output", .min = 0});
  options.add("output", &request.report, "JSON file for the figures; empty: printed alone", {.group = "Output"});
  options.add("baseline_shards", &request.baseline_shards,
              "also score a baseline that answers everything with the mean mask of these training shards", data);
  options.add("seed", &seed, "of weights drawn by --random_init", {.group = "Model", .min = 0});
  train::bind_inference(options, request.model.engine);
  if (!parse(options, args)) return 0;
  train::validate(request.model.engine);

  Devices devices(session, request.model.precision);
  request.model.precision = devices.precision();
  request.seed = static_cast<std::uint64_t>(seed);
  const auto result = train::run_evaluation(request, devices.fabric(), devices.device(), session.log());
  comm::on_rank_zero(session.world(), [&] {
    const auto text = train::to_json(result);
    std::printf("%s\n", text.c_str());
    if (!request.report.empty()) write_file(request.report, text + "\n");
  });
  devices.close();
  return 0;
}

}  // namespace tessera::cli
