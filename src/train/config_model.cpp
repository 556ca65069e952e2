// Flags of the model and of what trains.
#include "tessera/core/error.hpp"
#include "tessera/image/preprocess.hpp"
#include "train/config_parts.hpp"

namespace tessera::train {

namespace {

void bind_model(Options& o, TrainConfig& c) {
  const OptionInfo model{.group = "Model"};
  o.add("version", &c.version, "folder of the base LLaVA weights or of a finished LISA model", model);
  o.add("vision_tower", &c.vision_tower, "CLIP folder; default: the one that the model's config.json names", model);
  o.add("vision_pretrained", &c.vision_pretrained, "SAM weights (.pth or .safetensors) where the model folder has none",
        model);
  o.add("hub_dir", &c.hub_dir, "folder in which model names are looked up", model);
  o.add("precision", &c.precision,
        "arithmetic; default bf16 on GPUs (where LLaVA's trainer has fp32 without --bf16), fp32 on CPUs",
        {.group = "Model", .choices = {"", "fp32", "bf16", "fp16"}});
  o.add("random_init", &c.random_init, "draw every weight that no file holds, instead of refusing", model);
  o.add("new_token_init", &c.new_token_init,
        "rows of tokens that the base's vocabulary has not: normal, drawn as LISA does; mean, of the others as LLaVA "
        "does; default: the recipe's own",
        {.group = "Model", .choices = {"normal", "mean"}});
  o.add("out_dim", &c.out_dim,
        "width of text_hidden_fcs' output and of SAM's prompts, which config.json must have; default: as it has it",
        {.group = "Model", .min = 1});
}

void bind_llava(Options& o, TrainConfig& c) {
  const OptionInfo llava{.group = "LLaVA (--recipe llava)"};
  const OptionInfo rate{.group = "LLaVA (--recipe llava)", .min = 0};
  o.add("mm_vision_select_layer", &c.mm_vision_select_layer,
        "hidden state of the tower that is taken, from the end when negative; default: as config.json says, or "
        "-1 as LLaVA's trainer has it (every published model has -2)",
        llava);
  o.add("mm_vision_select_feature", &c.mm_vision_select_feature, "with the class token or without",
        {.group = "LLaVA (--recipe llava)", .choices = {"", "patch", "cls_patch"}});
  o.add("mm_projector_type", &c.mm_projector_type, "linear, mlp2x_gelu, …; default: as config.json says, or linear",
        llava);
  o.add("image_aspect_ratio", &c.image_aspect_ratio,
        "square: the processor's resize and crop; pad: to a square first; anyres, anyres_max_…: in tiles; default: as "
        "config.json says, or square",
        llava);
  o.add("image_grid_pinpoints", &c.image_grid_pinpoints,
        "anyres: the sizes that tiles are cut from, \"[(336, 672), (672, 336)]\" as width and height, or "
        "\"(1x1),...,(6x6)\" in tiles; default: as config.json says",
        llava);
  o.add(
      "mm_patch_merge_type", &c.mm_patch_merge_type,
      "anyres: flat, tile after tile; spatial, as one grid; spatial_unpad, without its padding and with image_newline; "
      "default: as config.json says, or flat",
      {.group = "LLaVA (--recipe llava)", .choices = {"", "flat", "spatial", "spatial_unpad"}});
  o.add("pretrain_mm_mlp_adapter", &c.pretrain_mm_mlp_adapter, "mm_projector.bin that stage one wrote", llava);
  o.add("tune_mm_mlp_adapter", &c.tune_mm_mlp_adapter, "stage one: train the projector alone, write mm_projector.bin",
        llava);
  o.add("tune_mm_mlp_and_vision_tower", &c.tune_mm_mlp_and_vision_tower, "train the projector and the tower alone",
        llava);
  o.add("freeze_mm_mlp_adapter", &c.freeze_mm_mlp_adapter, "the projector stays as it is", llava);
  o.add("freeze_backbone", &c.freeze_backbone, "the language model stays as it is, but for the head", llava);
  o.add("lora_enable", &c.lora_enable, "LoRA on the language model instead of training it", llava);
  o.add("unfreeze_mm_vision_tower", &c.unfreeze_mm_vision_tower,
        "train the vision tower as well; default: as config.json says of a FastViT where everything else trains too",
        llava);
  o.add("mm_projector_lr", &c.mm_projector_lr, "peak learning rate of the projector; 0: --lr", rate);
  o.add("mm_vision_tower_lr", &c.mm_vision_tower_lr, "peak learning rate of the vision tower; 0: --lr", rate);
}

void bind_trained_parts(Options& o, TrainConfig& c) {
  const OptionInfo trained{.group = "What trains"};
  o.add("adapter", &c.adapters,
        "PEFT folder of a LoRA or its kin, of a prefix, or one of each, that the training starts from: its "
        "adapter_config.json stands for the flags of adapters, and other trained weights beside it are loaded too",
        trained);
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

}  // namespace

void bind_model_flags(Options& o, TrainConfig& c) {
  bind_model(o, c);
  bind_llava(o, c);
  bind_trained_parts(o, c);
}

namespace {

void check_llava(const TrainConfig& c) {
  if (c.tune_mm_mlp_adapter && c.freeze_mm_mlp_adapter) {
    throw RequestError("--tune_mm_mlp_adapter and --freeze_mm_mlp_adapter leave nothing to train");
  }
  if (c.tune_mm_mlp_adapter && c.lora_enable) {
    throw RequestError("--tune_mm_mlp_adapter trains the projector alone and contradicts --lora_enable");
  }
  if (c.tune_mm_mlp_and_vision_tower && (c.lora_enable || c.tune_mm_mlp_adapter || c.freeze_mm_mlp_adapter)) {
    throw RequestError(
        "--tune_mm_mlp_and_vision_tower trains projector and tower alone and contradicts --lora_enable, "
        "--tune_mm_mlp_adapter and --freeze_mm_mlp_adapter");
  }
  if (c.lora_enable && c.freeze_backbone) {
    throw RequestError("--lora_enable leaves the language model's own weights as they are; drop --freeze_backbone");
  }
  if (!c.lora_enable) check_no_adapter(c.adapter, "--lora_enable");
  if (c.lora_enable && c.lora_r == 0) throw RequestError("--lora_enable needs a --lora_r above 0");
  if (c.tune_mm_mlp_adapter && c.adapter.num_virtual_tokens > 0) {
    throw RequestError("--tune_mm_mlp_adapter trains the projector alone and contradicts --num_virtual_tokens");
  }
  if (c.mm_projector_lr > 0 && c.freeze_mm_mlp_adapter) {
    throw RequestError("--mm_projector_lr is the rate of a projector that --freeze_mm_mlp_adapter keeps as it is");
  }
  if (c.train_scope != "lisa") throw RequestError("--train_scope is LISA's; --recipe llava has its stages' flags");
  if (!c.image_aspect_ratio.empty()) (void)image::aspect_from_name(c.image_aspect_ratio);
}

void check_trained(const TrainConfig& c) {
  if (c.lora_dropout >= 1) throw RequestError("--lora_dropout {} must be below 1", c.lora_dropout);
  if (c.train_scope == "full" && c.lora_r > 0) {
    throw RequestError("--train_scope full trains every parameter: pass --lora_r 0 with it");
  }
  if (c.train_scope == "full" && c.adapter.num_virtual_tokens > 0)
    throw RequestError("--train_scope full trains every parameter and contradicts --num_virtual_tokens");
  (void)prefix_of(c.adapter);
  if (c.lora_r == 0) {
    check_no_adapter(c.adapter);
    if (c.train_scope == "lora" && c.adapter.num_virtual_tokens == 0)
      throw RequestError("--train_scope lora needs --lora_r or --num_virtual_tokens above 0");
  }
  if (c.lora_r > 0 && c.lora_target_modules.empty() && c.adapter.target_modules.empty() && c.adapters.empty()) {
    throw RequestError("--lora_target_modules is empty while --lora_r is {}", c.lora_r);
  }
}

}  // namespace

void check_model_flags(const TrainConfig& c) {
  if (c.version.empty()) throw RequestError("--version is missing: the folder of the model");
  check_trained(c);
  if (c.recipe == "llava") {
    check_llava(c);
  } else if (c.lora_enable || c.tune_mm_mlp_adapter || c.tune_mm_mlp_and_vision_tower || c.freeze_mm_mlp_adapter ||
             c.freeze_backbone || c.unfreeze_mm_vision_tower.has_value() || !c.pretrain_mm_mlp_adapter.empty() ||
             c.mm_projector_lr > 0 || c.mm_vision_tower_lr > 0 || c.mm_vision_select_layer ||
             !c.mm_vision_select_feature.empty() || !c.mm_projector_type.empty() || !c.image_aspect_ratio.empty() ||
             !c.image_grid_pinpoints.empty() || !c.mm_patch_merge_type.empty()) {
    throw RequestError("flags of LLaVA's stages are given without --recipe llava");
  } else if (c.optimization.label_smoothing_factor > 0 || c.optimization.neftune_noise_alpha > 0) {
    throw RequestError(
        "--label_smoothing_factor and --neftune_noise_alpha are of transformers' trainer: pass --recipe llava");
  }
}

}  // namespace tessera::train
