"""Every flag of `tessera train`, and the check that shows its effect."""

from effects import (Check, Curve, Fails, Files, Needed, Refused, Series, Shown, Text, loaded_in_bits, plan_lines,
                     quantised, steps, trained)

VAL = ("--val_shards", "{root}/shards-lisa")
PROGRAM = ("train_program_test", "tests/cli/train_program_test.cpp")


class GoesOn(Check):
    """A second run in the same folder goes on, unless the flag says no."""

    def __call__(self, toy):
        runs = [toy.start("train", "lisa", ["--output_dir", "{root}/again", "--max_steps", n, *extra])[0].output
                for n, extra in ((1, []), (2, []), (3, self.flags))]
        assert "going on from" in runs[1] and "going on from" not in runs[2], runs


def of_llava(check):
    check.kind = "llava"
    return check


MODEL = {
    "version": Refused("--version", "nowhere", words=["nowhere"]),
    "vision_tower": Refused("--vision_tower", "nowhere", words=["nowhere"]),
    "vision_pretrained": Refused("--vision_pretrained", "nowhere.pth", words=["nowhere.pth"]),
    "hub_dir": Needed("--hub_dir", "{root}/hub", base=("--vision_tower", "some/clip")),
    "precision": Curve("--precision", "bf16"),
    "random_init": Needed("--random_init", kind="drawn"),
    "new_token_init": Shown("train.fastvit_tower", "tests/train/fastvit_tower_test.py", "--new_token_init"),
    "out_dim": Refused("--out_dim", "16", words=["--out_dim 16"]),
}

ANYRES = ("--image_aspect_ratio", "anyres")
LLAVA = {
    "recipe": Refused("--recipe", "lisa"),
    "mm_vision_select_layer": Curve("--mm_vision_select_layer", "-2"),
    "mm_vision_select_feature": Curve("--mm_vision_select_feature", "cls_patch"),
    "mm_projector_type": trained("--mm_projector_type", "mlp2x_gelu"),
    "image_aspect_ratio": Curve("--image_aspect_ratio", "pad"),
    "image_grid_pinpoints": Needed("--image_grid_pinpoints", "(1x1),...,(2x2)", base=ANYRES),
    "mm_patch_merge_type": Curve("--mm_patch_merge_type", "spatial_unpad",
                                 base=[*ANYRES, "--image_grid_pinpoints", "(1x1),...,(2x2)"]),
    "pretrain_mm_mlp_adapter": Refused("--pretrain_mm_mlp_adapter", "nowhere.bin", words=["nowhere.bin"]),
    "tune_mm_mlp_adapter": Files("mm_projector.bin", "--tune_mm_mlp_adapter"),
    "tune_mm_mlp_and_vision_tower": trained("--tune_mm_mlp_and_vision_tower"),
    "freeze_mm_mlp_adapter": trained("--freeze_mm_mlp_adapter"),
    "freeze_backbone": trained("--freeze_backbone"),
    "lora_enable": trained("--lora_enable", "--lora_r", "4"),
    "unfreeze_mm_vision_tower": trained("--unfreeze_mm_vision_tower"),
    "mm_projector_lr": Curve("--mm_projector_lr", "1e-3", key="lr"),
    "mm_vision_tower_lr": Curve("--mm_vision_tower_lr", "1e-3", key="lr", base=["--unfreeze_mm_vision_tower"]),
    "label_smoothing_factor": Curve("--label_smoothing_factor", "0.1"),
    "neftune_noise_alpha": Curve("--neftune_noise_alpha", "5"),
    "conv_type": Refused("--conv_type", "plain", words=["--conv_type"]),
    "num_train_epochs": steps(6, "--num_train_epochs", "2", "--max_steps", "-1"),
}

ADALORA = ("--peft_type", "adalora", "--init_r", "4", "--target_r", "2")
FLAGS = ("train_test", "tests/train/adapter_flags_test.cpp")
TRAINED = {
    "adapter": Curve("--adapter", "{root}/adapter"),
    "train_scope": trained("--train_scope", "full", base=["--lora_r", "0"]),
    "lora_r": trained("--lora_r", "2"),
    "lora_alpha": Curve("--lora_alpha", "64"),
    "lora_dropout": Curve("--lora_dropout", "0.5"),
    "lora_target_modules": trained("--lora_target_modules", "k_proj,o_proj,v_proj"),
    "target_modules": trained("--target_modules", "gate_proj"),
    "exclude_modules": trained("--exclude_modules", "up_proj", base=["--target_modules", "gate_proj", "up_proj"]),
    "layers_to_transform": trained("--layers_to_transform", "1", base=["--target_modules", "q_proj"]),
    "layers_pattern": Refused("--layers_pattern", "blocks", base=["--target_modules", "q_proj",
                                                                  "--layers_to_transform", "1"]),
    "rank_pattern": trained("--rank_pattern", "q_proj=2"),
    "alpha_pattern": Curve("--alpha_pattern", "q_proj=64"),
    "use_rslora": Curve("--use_rslora"),
    "use_dora": trained("--use_dora"),
    "lora_bias": trained("--lora_bias", "true", base=["--target_modules", ".*vision_tower.*q_proj"]),
    "init_lora_weights": Curve("--init_lora_weights", "gaussian"),
    "modules_to_save": trained("--modules_to_save", "norm"),
    "peft_type": trained("--peft_type", "adalora"),
    "init_r": trained("--init_r", "4", "--target_r", "2", base=ADALORA[:2]),
    "target_r": Shown(*FLAGS, "target_r"),
    "tinit": Shown(*FLAGS, "tinit"),
    "tfinal": Shown(*FLAGS, "tfinal"),
    "deltaT": Shown(*FLAGS, "deltaT"),
    "total_step": Shown(*FLAGS, "total_step"),
    "adalora_beta1": Shown(*FLAGS, "adalora_beta1"),
    "adalora_beta2": Shown(*FLAGS, "adalora_beta2"),
    "orth_reg_weight": Curve("--orth_reg_weight", "5", base=ADALORA),
    "num_virtual_tokens": trained("--num_virtual_tokens", "3"),
    "prefix_projection": trained("--prefix_projection", base=["--num_virtual_tokens", "3"]),
    "encoder_hidden_size": trained("--encoder_hidden_size", "5",
                                   base=["--num_virtual_tokens", "3", "--prefix_projection"]),
    "train_mask_decoder": trained("--train_mask_decoder", "false"),
}

OPTIMISATION = {
    "ce_loss_weight": Curve("--ce_loss_weight", "3"),
    "bce_loss_weight": Curve("--bce_loss_weight", "3"),
    "dice_loss_weight": Curve("--dice_loss_weight", "3"),
    "loss_normalization": Curve("--loss_normalization", "micro_batch"),
    "optim": Curve("--optim", "lion"),
    "lr_groups": Curve("--lr_groups", "lm_head=1e-3", key="lr"),
    "max_grad_value": Curve("--max_grad_value", "1e-4", base=["--optim", "sgd"]),
    "ema_decay": Text(r"average of weights", "--ema_decay", "0.9"),
    "ema_use": Shown("train_mpi_test", "tests/train/optimization_run_test.cpp", "ema_use"),
    "metric_for_best_model": Refused("--metric_for_best_model", "loss", words=["--metric_for_best_model loss"]),
    "greater_is_better": Shown("train_test", "tests/train/optimization_flags_test.cpp", "--greater_is_better"),
    "early_stopping_patience": Text("stopped early", "--early_stopping_patience", "1",
                                    base=[*VAL, "--eval_steps", "1", "--lr", "0"]),
    "early_stopping_threshold": Shown("train_test", "tests/train/optimization_flags_test.cpp",
                                      "--early_stopping_threshold"),
    "load_best_model_at_end": Text("what is written out is .*best", "--load_best_model_at_end",
                                   base=[*VAL, "--eval_steps", "1"]),
    "momentum": Curve("--momentum", "0.9", base=["--optim", "sgd"]),
    "lr": Curve("--lr", "1e-3", key="lr"),
    "beta1": Curve("--beta1", "0.1"),
    "beta2": Curve("--beta2", "0.1"),
    "adam_eps": Curve("--adam_eps", "0.1"),
    "weight_decay": Curve("--weight_decay", "0.5"),
    "max_grad_norm": Curve("--max_grad_norm", "0.001", base=["--optim", "sgd"]),
    "lr_scheduler_type": Curve("--lr_scheduler_type", "cosine", key="lr"),
    "warmup_steps": Curve("--warmup_steps", "2", key="lr"),
    "warmup_ratio": Curve("--warmup_ratio", "0.5", key="lr"),
    "lr_power": Curve("--lr_power", "2", key="lr", base=["--lr_scheduler_type", "polynomial"]),
    "lr_end": Curve("--lr_end", "5e-3", key="lr", base=["--lr_scheduler_type", "polynomial"]),
    "lr_first_step_full": Curve("--lr_first_step_full", key="lr", base=["--warmup_steps", "2"]),
    "max_skipped_steps": Fails("--max_skipped_steps", "0", words=["--max_skipped_steps"],
                               base=["--lr", "1e30", "--max_steps", "4"]),
    "epochs": steps(2, "--epochs", "2", "--steps_per_epoch", "1", "--max_steps", "0"),
    "steps_per_epoch": steps(2, "--epochs", "1", "--steps_per_epoch", "2", "--max_steps", "0"),
    "max_steps": steps(2, "--max_steps", "2"),
}

RUN = {
    "log_base_dir": Files("other/*/metrics.jsonl", "--log_base_dir", "{folder}/other"),
    "exp_name": Files("inner/metrics.jsonl", "--exp_name", "{name}/inner"),
    "output_dir": Files("out/metrics.jsonl", "--output_dir", "{folder}/out"),
    "resume": Refused("--resume", "nowhere", words=["nowhere"]),
    "auto_resume": GoesOn("--auto_resume", "false"),
    "no_eval": Text("validation at step", "--no_eval", base=VAL),
    "eval_only": Text("step 1/3", "--eval_only", base=VAL),
    "print_freq": Text(r"step (\d)/3", "--print_freq", "2"),
    "eval_steps": Series("--eval_steps", "1", key="val_giou", expected=lambda got: len(got) == 3, base=VAL),
    "save_steps": Files("checkpoints/step-2", "--save_steps", "2"),
    "save_total_limit": Files("checkpoints/step-1", "--save_total_limit", "1", there=False,
                              base=["--save_steps", "1", "--save_total_limit", "0"]),
    "async_save": Text(r"([\d.]+) of a checkpoint's copy", "--async_save", "false"),
    "vis_samples": Files("overlays/*", "--vis_samples", "0", there=False, base=VAL),
    "export_merged": Files("merged/config.json", "--export_merged"),
    "seed": Curve("--seed", "7"),
    "data_seed": Curve("--data_seed", "7"),
    "model_name_or_path": Needed("--model_name_or_path", "{root}/llava", "--version", "v1", kind="unnamed"),
    "bf16": Curve("--bf16", "True"),
    "fp16": Refused("--fp16", "True", words=["--bf16 contradicts --fp16"], base=["--bf16", "True"]),
    "save_strategy": Files("checkpoints/step-3", "--save_strategy", "no", there=False),
    "evaluation_strategy": Text("validation at step", "--evaluation_strategy", "no", base=VAL),
    "deepspeed": Curve("--deepspeed", "{root}/zero.json", base=["--optim", "sgd"]),
}

ENGINE = {
    "memory_budget": Refused("--memory_budget", "0.001", words=["--memory_budget"]),
    "placement": plan_lines("--placement", "world"),
    "resident_frozen": Refused("--resident_frozen", words=["--placement"], base=["--placement", "world"]),
    # On one rank there is nothing to gather; `plan` shows both on four.
    "prefetch": Shown("train_test", "tests/train/engine_flags_test.cpp", "EXPECT_EQ(config.prefetch, 3)"),
    "keep_mib": Shown("train_test", "tests/train/engine_flags_test.cpp", '{"--keep_mib", "1.5"}).keep_bytes'),
    **quantised(Curve),
    **loaded_in_bits(Curve),
    "offload_frozen": plan_lines("--offload_frozen", "true"),
    "offload_optimizer": plan_lines("--offload_optimizer", "true"),
    "gradient_checkpointing": Refused("--gradient_checkpointing", "false", words=["--recompute"],
                                      base=["--recompute", "all"]),
    "recompute": plan_lines("--recompute", "all"),
    "layer_major": Refused("--layer_major", "3", words=["--layer_major 3"]),
    "reproducible": Shown(*PROGRAM, "--reproducible false"),
    "tf32": Shown("train_test", "tests/train/engine_flags_test.cpp", "tf32"),
    "trace": Files("trace.json", "--trace", "{folder}/trace.json"),
    "comm_timeout_s": Shown(*PROGRAM, "--comm_timeout_s 2"),
    "check_schedule": Shown(*PROGRAM, "--check_schedule"),
}

DATA = {
    "shards": Refused("--shards", "nowhere", words=["nowhere"]),
    "dataset": Curve("--dataset", "reason_seg"),
    "sample_rates": Curve("--sample_rates", "1,9"),
    "batch_size": Text(r"(\d+) images a step", "--batch_size", "1"),
    "grad_accumulation_steps": Text(r"(\d+) images a step", "--grad_accumulation_steps", "1"),
    "global_batch_size": Text(r"(\d+) images a step", "--global_batch_size", "6"),
    "model_max_length": Curve("--model_max_length", "60"),
    "group_by_modality_length": Curve("--group_by_modality_length"),
    "stored_features": Shown("train_mpi_test", "tests/train/stored_features_test.cpp", "stored_features"),
    "workers": Shown("data_test", "tests/data/loader_test.cpp", "workers"),
    "prefetch_mib": Shown("data_test", "tests/data/loader_test.cpp", "prefetch_mib"),
    "val_count_padding": Shown("data_stream_test", "tests/data/loader_test.cpp", "count_padding"),
    "val_shards": Text("validation at step", *VAL),
    "max_val_items": Curve("--max_val_items", "1", key="val_masks", base=VAL),
    "augment_flip": Curve("--augment_flip", "1"),
    "augment_crop_min_area": Curve("--augment_crop_min_area", "0.3"),
    "augment_crop_aspect": Curve("--augment_crop_aspect", "2", base=["--augment_crop_min_area", "0.3"]),
    "augment_scale_min": Curve("--augment_scale_min", "0.5"),
    "augment_scale_max": Curve("--augment_scale_max", "2"),
    "augment_brightness": Curve("--augment_brightness", "0.5"),
    "augment_contrast": Curve("--augment_contrast", "0.5"),
    "augment_saturation": Curve("--augment_saturation", "0.5"),
}

FLAGS = MODEL | {name: of_llava(check) for name, check in LLAVA.items()} | TRAINED | OPTIMISATION | RUN | ENGINE | DATA

# Other names: a value that is not the default, given under the other name, must be in config.toml under the own one.
OTHER_NAMES = {
    "learning_rate": "0.005",
    "adam_beta1": "0.7",
    "adam_beta2": "0.8",
    "adam_epsilon": "0.001",
    "logging_steps": "3",
    "keep_last": "5",
    "cache_dir": "hub",
    "resume_from_checkpoint": "auto",
    "eval_strategy": "no",
    "lora_weight_path": "{root}/adapter",
    "per_device_train_batch_size": "1",
    "gradient_accumulation_steps": "4",
    "dataloader_num_workers": "2",
}
