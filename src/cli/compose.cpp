#include <fmt/ranges.h>

#include "cli/command.hpp"
#include "tessera/models/compose.hpp"

namespace tessera::cli {

namespace {

struct Flags {
  std::string language_model, vision_tower, output, projector;
  std::string projector_init = "normal";
  std::string new_token_init = "mean";
  std::string max_shard_size = "5GB";
  std::int64_t seed = 42;
};

void bind(Options& options, Flags& flags, models::ComposeRequest& request) {
  const OptionInfo folders{.group = "Folders", .required = true};
  options.add("language_model", &flags.language_model, "llama, mistral or qwen2, with its tokenizer", folders);
  options.add("vision_tower", &flags.vision_tower, "CLIP, whole or its vision model alone", folders);
  options.add("output", &flags.output, "new folder for the LLaVA", folders);
  options.add("projector", &flags.projector, "mm_projector.bin or a LLaVA to take the projector from; default: drawn",
              {.group = "Projector"});
  options.add("projector_init", &flags.projector_init,
              "a drawn projector: transformers' normal values, or LLaVA's uniform ones",
              {.group = "Projector", .choices = {"normal", "uniform"}});
  options.add("mm_vision_select_layer", &request.select_layer, "hidden state of the tower that is projected",
              {.group = "Projector"});
  options.add("mm_vision_select_feature", &request.select_feature, "without or with the class token",
              {.group = "Projector", .choices = {"patch", "cls_patch"}});
  options.add("image_token", &request.image_token, "stands for image features", {.group = "Tokens"});
  options.add("pad_token", &request.pad_token, "added where the tokenizer declares none", {.group = "Tokens"});
  options.add("new_token_init", &flags.new_token_init,
              "rows of a vocabulary that has to grow: the mean of the old ones, or drawn",
              {.group = "Tokens", .choices = {"mean", "normal"}});
  options.add("pad_to_multiple_of", &request.pad_to_multiple_of, "a vocabulary that has to grow becomes a multiple",
              {.group = "Tokens", .unit = "rows", .min = 1});
  options.add("dtype", &request.dtype, "of the weights; auto: as the language model's are",
              {.group = "Output", .choices = {"auto", "fp32", "bf16", "fp16"}});
  options.add("max_shard_size", &flags.max_shard_size, "of a file of weights, e.g. 5GB or 200MB", {.group = "Output"});
  options.add("seed", &flags.seed, "of what is drawn", {.group = "Output", .min = 0});
  options.add("dry_run", &request.dry_run, "check everything, write nothing", {.group = "Output"});
}

void tell(const models::ComposeReport& report, const models::ComposeRequest& request, const Log& log) {
  if (!report.left_out.empty()) {
    log.warn("{} tensors of the sources have no place in a LLaVA: {}", report.left_out.size(),
             fmt::join(report.left_out, ", "));
  }
  log.info("'{}' is token {}, padding is token {}; the vocabulary has {} rows{}", request.image_token,
           report.image_token_id, report.pad_token_id, report.rows,
           report.rows == report.old_rows ? "" : fmt::format(", {} of them new", report.rows - report.old_rows));
  log.info("{} tensors, {:.1f} M parameters, {:.1f} MB as {} in {} file{}{}", report.tensors,
           static_cast<double>(report.elements) / 1e6, static_cast<double>(report.bytes) / 1e6, report.dtype,
           report.files, report.files == 1 ? "" : "s",
           request.dry_run ? "; nothing was written" : " written to " + request.output.string());
}

}  // namespace

int run_compose(const std::vector<std::string>& args, Session& session) {
  Flags flags;
  models::ComposeRequest request;
  Options options("tessera compose", "Builds a LLaVA for transformers from a language model and a CLIP; one process.");
  bind(options, flags, request);
  if (!parse(options, args)) return 0;
  if (launcher_rank() != 0) return 0;  // the work of one process; under mpirun the others have nothing to do
  request.language_model = flags.language_model;
  request.vision_tower = flags.vision_tower;
  request.output = flags.output;
  request.projector = flags.projector;
  request.projector_init = models::projector_init_from_name(flags.projector_init);
  request.new_rows = models::new_rows_from_name(flags.new_token_init);
  request.shard_bytes = io::shard_bytes_from_text(flags.max_shard_size);
  request.seed = static_cast<std::uint64_t>(flags.seed);
  tell(models::compose_llava(request), request, session.log());
  return 0;
}

}  // namespace tessera::cli
