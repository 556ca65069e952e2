#pragma once
/// TrainConfig: the settings of `tessera train`, under the names of LISA's train_ds.py where it has them.
/// Data settings (what is read, in which mixture, how batches are cut) are data::LoaderConfig's.
/// Source: LISA train_ds.py (parse_args).
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "tessera/core/options.hpp"
#include "tessera/train/adapter_flags.hpp"
#include "tessera/train/engine_flags.hpp"
#include "tessera/train/optimization_flags.hpp"
#include "tessera/train/schedule.hpp"

namespace tessera::train {

/// Flags that the references' programs have and that say, in their own way, what fields of TrainConfig hold.
struct ReferenceFlags {
  std::string model_name_or_path;  ///< LLaVA: the model; `version` is then the conversation template
  std::string conv_type;           ///< template of the shards; empty: any
  std::optional<bool> bf16;
  std::optional<bool> fp16;
  std::string save_strategy;        ///< no, steps, epoch; empty: as save_steps says
  std::string evaluation_strategy;  ///< no, steps, epoch; empty: as no_eval and eval_steps say
  std::string deepspeed;            ///< DeepSpeed's configuration file
};

struct TrainConfig {
  std::string recipe = "lisa";  ///< lisa, llava
  ReferenceFlags reference;     ///< what settle() turned into the fields below
  // model
  std::string version;            ///< base LLaVA or finished LISA folder
  std::string vision_tower;       ///< CLIP folder; empty: what the model's config.json names
  std::string vision_pretrained;  ///< SAM weights (.pth or .safetensors); empty: those in the model folder
  std::string hub_dir;
  std::string precision;                  ///< fp32, bf16, fp16; empty: bf16 on GPUs, fp32 on CPUs
  bool random_init = false;               ///< weights that no file holds are drawn; for training from nothing
  std::string new_token_init = "normal";  ///< models::NewRows' names; of rows that the base's vocabulary has not
  // LLaVA's model and stages
  std::optional<std::int64_t> mm_vision_select_layer;
  std::string mm_vision_select_feature;  ///< patch, cls_patch; empty: as config.json says
  std::string mm_projector_type;         ///< linear, mlp2x_gelu, …; empty: as config.json says
  std::string image_aspect_ratio;        ///< square, pad, anyres, anyres_max_…; empty: as config.json says, or square
  std::string image_grid_pinpoints;      ///< text of a list of [width, height]; empty: as config.json says
  std::string mm_patch_merge_type;       ///< flat, spatial, spatial_unpad; empty: as config.json says, or flat
  std::string pretrain_mm_mlp_adapter;   ///< mm_projector.bin of stage one, or any weights with a projector
  bool tune_mm_mlp_adapter = false;
  bool freeze_mm_mlp_adapter = false;
  bool tune_mm_mlp_and_vision_tower = false;
  bool freeze_backbone = false;
  bool lora_enable = false;
  std::optional<bool> unfreeze_mm_vision_tower;  ///< absent: as config.json says of a FastViT, where all else trains
  double mm_projector_lr = 0;                    ///< 0: lr
  double mm_vision_tower_lr = 0;                 ///< 0: lr
  std::int64_t model_max_length = 0;  ///< the loader's, at which LLaVA cuts spliced rows; 0: as config.json says
  // what trains
  std::vector<std::string> adapters;  ///< PEFT folders that the training starts from: LoRA's, a prefix's, or both
  std::string train_scope = "lisa";
  std::int64_t lora_r = 8;
  double lora_alpha = 16;
  double lora_dropout = 0.05;
  std::string lora_target_modules = "q_proj,v_proj";
  AdapterFlags adapter;
  bool train_mask_decoder = true;
  std::optional<std::int64_t> out_dim;  ///< what config.json must say
  // losses
  double ce_loss_weight = 1.0;
  double bce_loss_weight = 2.0;
  double dice_loss_weight = 0.5;
  std::string loss_normalization = "global";
  // optimisation
  std::string optim = "adamw";  ///< shard::optimizer_kind's names
  double momentum = 0;          ///< of sgd
  double lr = 3e-4;
  double beta1 = 0.9;
  double beta2 = 0.95;
  double adam_eps = 1e-8;
  double weight_decay = 0.0;
  double max_grad_norm = 1.0;
  std::string lr_scheduler_type = "warmup_decay";
  std::int64_t warmup_steps = 100;
  double warmup_ratio = 0;  ///< above 0: of all steps, instead of warmup_steps
  double lr_power = 1;      ///< of polynomial
  double lr_end = 1e-7;     ///< of polynomial
  bool lr_first_step_full = false;
  std::int64_t epochs = 10;
  std::int64_t steps_per_epoch = 500;
  std::optional<double> num_train_epochs;  ///< passes over the data, instead of epochs * steps_per_epoch
  std::int64_t max_steps = 0;              ///< 0 or less: as many as the epochs make
  std::int64_t max_skipped_steps = 20;
  OptimizationFlags optimization;
  // run
  std::string log_base_dir = "./runs";
  std::string exp_name = "lisa";
  std::string output_dir;  ///< the run folder itself, in the place of log_base_dir/exp_name
  std::string resume;      ///< checkpoint folder, or "auto"
  bool auto_resume = true;
  bool no_eval = false;
  bool eval_only = false;
  std::int64_t print_freq = 1;
  std::int64_t eval_steps = 0;        ///< 0: at the end of each epoch
  std::int64_t save_steps = 0;        ///< 0: at the end of each epoch
  std::int64_t save_total_limit = 2;  ///< 0: all stay
  bool async_save = true;             ///< write checkpoints while the next steps run
  std::int64_t vis_samples = 8;
  bool export_merged = true;
  // engine
  EngineFlags engine;
  double comm_timeout_s = 600;
  std::string trace;  ///< file for a timeline of all ranks; empty: none

  /// Of num_train_epochs alone once settle_lengths() has seen the data.
  std::int64_t total_steps() const noexcept { return max_steps > 0 ? max_steps : epochs * steps_per_epoch; }
  std::string run_dir() const { return output_dir.empty() ? log_base_dir + "/" + exp_name : output_dir; }
};

void bind(Options& options, TrainConfig& config);

/// What the recipe's own trainer has for defaults; before bind(). Throws RequestError for an unknown recipe.
void set_recipe_defaults(TrainConfig& config, const std::string& recipe);

/// After parse(): what config.reference says goes into the fields it is about. Returns warnings for the log. Throws
/// RequestError for flags that contradict.
std::vector<std::string> settle(TrainConfig& config, const Options& options);

/// Once the data is there: `samples` in one pass over it, `images` in a step. A pass takes whole steps, rounded up.
void settle_lengths(TrainConfig& config, std::int64_t samples, std::int64_t images);

/// The schedule of a run of this configuration, for learning_rate_factor.
ScheduleConfig schedule_of(const TrainConfig& config);

/// Checks across fields, before anything is allocated. Throws RequestError naming the flag.
void validate(const TrainConfig& config);

}  // namespace tessera::train
