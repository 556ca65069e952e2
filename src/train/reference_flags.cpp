// The command lines of LISA's train_ds.py, LLaVA's and ml-fastvlm's train.py and transformers' TrainingArguments: what
// they call our settings, what they say in other words, and what cannot apply here.
// Source: dvlab-research/LISA train_ds.py; haotian-liu/LLaVA and apple/ml-fastvlm llava/train/train.py; transformers
// 4.37 training_args.py.
#include <array>
#include <string_view>
#include <utility>

#include "tessera/core/error.hpp"
#include "tessera/train/adapter_start.hpp"
#include "train/config_parts.hpp"
#include "train/deepspeed_file.hpp"

namespace tessera::train {

namespace {

using Pair = std::pair<std::string_view, std::string_view>;

constexpr std::array kOtherNames = std::to_array<Pair>({
    {"learning_rate", "lr"},
    {"adam_beta1", "beta1"},
    {"adam_beta2", "beta2"},
    {"adam_epsilon", "adam_eps"},
    {"logging_steps", "print_freq"},
    {"keep_last", "save_total_limit"},
    {"cache_dir", "hub_dir"},
    {"resume_from_checkpoint", "resume"},
    {"eval_strategy", "evaluation_strategy"},
    {"lora_weight_path", "adapter"},
});

constexpr std::string_view kPrepared = "the shards hold what `tessera prepare` made with this flag";
constexpr std::string_view kScales = "pictures go to the tower at its own size, not at several";
constexpr std::string_view kZero3 = "the engine shards over the ranks by itself, as ZeRO-3 does";
constexpr std::string_view kNoHub = "nothing is sent anywhere";
constexpr std::string_view kLogged =
    "metrics.jsonl and TensorBoard events are written into the run folder at every step";
constexpr std::string_view kUnread = "the reference declares it and never reads it";
constexpr std::string_view kOneItem = "a validation takes one sample at a time on each rank";
constexpr std::string_view kNotPython = "it is a setting of PyTorch in Python";

struct Ignored {
  std::string_view name, why;
  std::string_view standing = "false";  // asks for what is done in any case
};

constexpr std::array kIgnored = std::to_array<Ignored>({
    // LISA
    {"local_rank", "ranks come from mpirun"},
    {"exclude_val", kUnread},
    {"start_epoch", "a resumed run goes on at the step of its checkpoint"},
    {"vis_save_path", "training writes its pictures into the run folder; `tessera eval` takes this flag"},
    {"image_size", "the model's config.json says what size SAM takes", "1024"},
    {"dataset_dir", kPrepared},
    {"sem_seg_data", kPrepared},
    {"refer_seg_data", kPrepared},
    {"vqa_data", kPrepared},
    {"reason_seg_data", kPrepared},
    {"val_dataset", kPrepared},
    {"explanatory", kPrepared, "0.1"},
    {"num_classes_per_sample", kPrepared, "3"},
    {"use_mm_start_end", kPrepared, "true"},
    {"val_batch_size", kOneItem, "1"},
    // LLaVA and ml-fastvlm
    {"data_path", kPrepared},
    {"image_folder", kPrepared},
    {"mm_use_im_start_end", kPrepared},
    {"mm_use_im_patch_token", "pictures are spliced in where <image> stands, so no text ever holds <im_patch>"},
    {"lazy_preprocess", "samples are tokenised by `tessera prepare`", "true"},
    {"is_multimodal", "the shards say which samples have pictures", "true"},
    {"s2", kScales},
    {"image_crop_resolution", kUnread},
    {"image_split_resolution", kUnread},
    {"hd", kUnread},
    {"mpt_attn_impl", "there is one attention, whose results are those of every setting", "triton"},
    {"remove_unused_columns", "shards hold what a step needs and nothing else"},
    // transformers
    {"overwrite_output_dir", "a run goes on where it stopped; --auto_resume false starts anew"},
    {"do_train", "`tessera train` trains", "true"},
    {"do_eval", "--val_shards and --no_eval say whether there are validations"},
    {"do_predict", "`tessera eval` and `tessera forward` predict"},
    {"per_device_eval_batch_size", kOneItem},
    {"eval_accumulation_steps", kOneItem},
    {"eval_delay", "the first validation is the first that --eval_steps or the epoch makes due"},
    {"prediction_loss_only", "no prediction is kept"},
    {"logging_dir", kLogged},
    {"logging_strategy", kLogged, "steps"},
    {"logging_first_step", kLogged},
    {"logging_nan_inf_filter", "losses are logged as they are"},
    {"report_to", kLogged},
    {"run_name", "it names a run for a service; --exp_name or --output_dir names the folder"},
    {"log_level", "what is printed is short already", "passive"},
    {"disable_tqdm", "a bar is drawn on terminals alone"},
    {"save_safetensors", "models and checkpoints are safetensors files", "true"},
    {"save_only_model", "a checkpoint can always be resumed"},
    {"save_on_each_node", "checkpoints go to one folder that all nodes share"},
    {"ignore_data_skip", "a resumed run goes on in the same stream without reading what came before"},
    {"dataloader_drop_last", "the stream goes on from epoch to epoch, so no step is short"},
    {"dataloader_pin_memory", "batches are copied as the device needs them", "true"},
    {"dataloader_persistent_workers", "the readers run as long as the job"},
    {"group_by_length", "--group_by_modality_length is the order by length"},
    {"length_column_name", "--group_by_modality_length takes lengths from the shards", "length"},
    {"label_names", "the shards hold the labels"},
    {"fsdp", kZero3},
    {"fsdp_config", kZero3},
    {"ddp_find_unused_parameters", kZero3},
    {"ddp_bucket_cap_mb", kZero3},
    {"ddp_backend", "NCCL moves what is on GPUs, MPI what is not"},
    {"ddp_timeout", "--comm_timeout_s is the time after which a collective counts as hung"},
    {"auto_find_batch_size", "the plan that is printed at the start fits the memory, and --batch_size stays"},
    {"gradient_checkpointing_kwargs", "--recompute says what is recomputed"},
    {"full_determinism", "--reproducible is the flag"},
    {"half_precision_backend", kNotPython, "auto"},
    {"fp16_opt_level", kNotPython, "O1"},
    {"bf16_full_eval", "a validation has training's precision"},
    {"fp16_full_eval", "a validation has training's precision"},
    {"torch_compile", kNotPython},
    {"use_cpu", "without a GPU a run is on the CPU; CUDA_VISIBLE_DEVICES= hides the GPUs"},
    {"no_cuda", "without a GPU a run is on the CPU; CUDA_VISIBLE_DEVICES= hides the GPUs"},
    {"skip_memory_metrics", kLogged, "true"},
    {"push_to_hub", kNoHub},
    {"hub_model_id", kNoHub},
    {"hub_token", kNoHub},
});

std::string take(std::string& text) {
  return std::exchange(text, std::string());
}

void settle_precision(TrainConfig& c, const Options& options) {
  auto& r = c.reference;
  if (!r.bf16 && !r.fp16) return;
  if (r.bf16.value_or(false) && r.fp16.value_or(false)) throw RequestError("--bf16 contradicts --fp16");
  const std::string precision = r.bf16.value_or(false) ? "bf16" : r.fp16.value_or(false) ? "fp16" : "fp32";
  if (options.given("precision") && !c.precision.empty() && c.precision != precision) {
    throw RequestError("--precision {} contradicts --{}", c.precision, r.bf16 ? "bf16" : "fp16");
  }
  c.precision = precision;
  r.bf16.reset();
  r.fp16.reset();
}

void settle_strategies(TrainConfig& c, const Options& options) {
  constexpr std::int64_t kSteps = 500;  // transformers' save_steps and logging_steps, which eval_steps follows
  const auto& saving = c.reference.save_strategy;
  if (saving == "epoch") c.save_steps = 0;
  if (saving == "steps" && c.save_steps == 0) c.save_steps = kSteps;
  if (const auto validating = take(c.reference.evaluation_strategy); !validating.empty()) {
    c.no_eval = validating == "no";
    if (validating == "epoch") c.eval_steps = 0;
    if (validating == "steps" && c.eval_steps == 0) c.eval_steps = options.given("print_freq") ? c.print_freq : kSteps;
  }
}

}  // namespace

void bind_reference_flags(Options& o, TrainConfig& c) {
  const std::string group = "As the references say it";
  auto& r = c.reference;
  o.add("model_name_or_path", &r.model_name_or_path,
        "the model, where --version names the conversation template as in LLaVA's program", {.group = group});
  o.add("conv_type", &r.conv_type, "conversation template that the shards must have; empty: any", {.group = group});
  o.add("bf16", &r.bf16, "true: --precision bf16; false: fp32", {.group = group});
  o.add("fp16", &r.fp16, "true: --precision fp16; false: fp32", {.group = group});
  o.add("save_strategy", &r.save_strategy, "checkpoints: none, every --save_steps (500 where that is 0), or each epoch",
        {.group = group, .choices = {"", "no", "steps", "epoch"}});
  o.add("evaluation_strategy", &r.evaluation_strategy,
        "validations: none, every --eval_steps (where that is 0, --logging_steps, or 500 without it), or each epoch",
        {.group = group, .choices = {"", "no", "steps", "epoch"}});
  o.add(
      "deepspeed", &r.deepspeed,
      "DeepSpeed's configuration file, of which clipping (none where it has no gradient_clipping), precision, offload "
      "and AdamW's figures are taken; the engine shards as ZeRO-3 does in any case",
      {.group = group});
  for (const auto& [name, of] : kOtherNames) o.add_alias(std::string(name), std::string(of));
  for (const auto& [name, why, standing] : kIgnored) {
    o.add_ignored(std::string(name), std::string(why), std::string(standing));
  }
}

std::vector<std::string> settle(TrainConfig& c, const Options& options) {
  if (!c.reference.model_name_or_path.empty()) {
    if (options.given("version")) c.reference.conv_type = c.version;
    c.version = take(c.reference.model_name_or_path);
  }
  if (c.resume == "True" || c.resume == "true") c.resume = "auto";  // transformers takes a flag as well as a folder
  const bool own_lengths = options.given("epochs") || options.given("steps_per_epoch");
  if (own_lengths && !options.given("num_train_epochs")) c.num_train_epochs.reset();
  settle_adapters(c, [&options](std::string_view flag) { return options.given(flag); });
  settle_precision(c, options);
  settle_strategies(c, options);
  const std::string deepspeed = take(c.reference.deepspeed);
  return deepspeed.empty() ? std::vector<std::string>() : apply_deepspeed_file(deepspeed, c, options);
}

}  // namespace tessera::train
