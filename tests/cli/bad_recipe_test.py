"""What no training can be made of ends with status 2 and one line that names the flag and what was meant."""

import pathlib
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).parent / "flags"))

from toy import Toy  # noqa: E402

CASES = [
    # a pattern that matches no layer
    ("train", "lisa", ["--lora_target_modules", "q_prooj"], ["q_prooj", "did you mean 'q_proj'"]),
    ("train", "lisa", ["--target_modules", "gate_prj"], ["gate_prj", "did you mean 'gate_proj'"]),
    ("train", "lisa", ["--target_modules", ".*nowhere.*"], ["'.*nowhere.*'", "there are"]),
    ("train", "lisa", ["--target_modules", "q_proj", "--exclude_modules", "v_prooj"], ["v_prooj"]),
    ("train", "lisa", ["--rank_pattern", "k_proj=2"], ["rank_pattern", "k_proj"]),
    ("train", "lisa", ["--alpha_pattern", "k_proj=2"], ["alpha_pattern", "k_proj"]),
    ("train", "lisa", ["--modules_to_save", "nrm"], ["modules_to_save", "nrm", "norm"]),
    ("train", "lisa", ["--target_modules", "q_proj", "--layers_to_transform", "7"], ["layers_to_transform", "7"]),
    ("forward", "lora", ["--grads", "nowhere"], ["--grads 'nowhere'"]),
    # ranks
    ("train", "lisa", ["--lora_r", "-1"], ["--lora_r"]),
    ("train", "lisa", ["--rank_pattern", "q_proj=0"], ["rank 0", "q_proj"]),
    ("train", "lisa", ["--lora_r", "49"], ["rank 49", "[48, 48]"]),
    ("train", "lisa", ["--rank_pattern", "v_proj=100"], ["rank 100", "v_proj"]),
    ("train", "lisa", ["--peft_type", "adalora", "--init_r", "64"], ["rank 64"]),
    ("train", "lisa", ["--peft_type", "adalora", "--init_r", "4", "--target_r", "5"], ["target_r 5"]),
    ("train", "llava", ["--lora_enable", "--lora_r", "0"], ["--lora_enable", "--lora_r"]),
    ("train", "lisa", ["--lora_r", "0", "--use_dora"], ["--use_dora", "--lora_r"]),
    ("train", "lisa", ["--lora_bias", "true"], ["lora_bias", "q_proj"]),
    # an adapter for another base
    ("forward", "lora", ["--adapter", "{golden}/lora_all_rslora/adapter"], ["model.layers.2."]),
    ("forward", "lora", ["--adapter", "{golden}/lora_modules_to_save/adapter"], ["lora_modules_to_save", "for another base"]),
    ("forward", "lora", ["--adapter", "{golden}/prefix_grouped/adapter"], ["prefix_grouped"]),
    ("merge", "lora", ["--adapter", "{golden}/lora_all_rslora/adapter"], ["layer"]),
    ("merge", "lora", ["--adapter", "{golden}/lora_pissa/adapter"], ["down_proj", "its adapter is for [16, 20]"]),
    ("merge", "lora", ["--adapter", "{golden}/lora_clip_conv/adapter"], ["patch_embedding"]),
    # stages that contradict themselves
    ("train", "llava", ["--tune_mm_mlp_adapter", "--freeze_mm_mlp_adapter"], ["--freeze_mm_mlp_adapter"]),
    ("train", "llava", ["--tune_mm_mlp_adapter", "--lora_enable"], ["--tune_mm_mlp_adapter", "--lora_enable"]),
    ("train", "llava", ["--lora_enable", "--freeze_backbone"], ["--lora_enable", "--freeze_backbone"]),
    ("train", "llava", ["--mm_vision_tower_lr", "1e-5"], ["--mm_vision_tower_lr", "--unfreeze_mm_vision_tower"]),
    ("train", "llava", ["--train_scope", "lora"], ["--train_scope"]),
    ("train", "lisa", ["--train_scope", "full"], ["--train_scope full", "--lora_r 0"]),
    ("train", "lisa", ["--train_scope", "lora", "--lora_r", "0"], ["--train_scope lora"]),
    ("train", "lisa", ["--lora_enable"], ["--recipe llava"]),
    # flags without effect
    ("train", "lisa", ["--label_smoothing_factor", "0.1"], ["--label_smoothing_factor", "--recipe llava"]),
    ("train", "lisa", ["--neftune_noise_alpha", "5"], ["--neftune_noise_alpha", "--recipe llava"]),
    ("train", "lisa", ["--load_best_model_at_end"], ["--load_best_model_at_end", "--val_shards"]),
    ("train", "llava", ["--label_smoothing_factor", "1"], ["--label_smoothing_factor 1"]),
    ("inspect", "lisa", ["--output_dir", "{folder}"], ["--output_dir", "--show"]),
    ("inspect", "lisa", ["--show", "--sheet_samples", "3"], ["--sheet_samples", "--sheet"]),
    ("inspect", "lisa", ["--sample", "1", "--seed", "3"], ["--seed", "random sample"]),
    # rates for what does not train
    ("train", "llava", ["--mm_projector_lr", "1e-5", "--freeze_mm_mlp_adapter"], ["--mm_projector_lr"]),
    ("train", "lisa", ["--lr_groups", "mm_projektor=1e-4"], ["--lr_groups 'mm_projektor'"]),
    ("train", "lisa", ["--lr_groups", "lora_C=1e-4"], ["--lr_groups 'lora_C'", "'lora_A'"]),
]


def main():
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        toy = Toy(pathlib.Path(folder))
        for command, kind, flags, words in CASES:
            run, status = toy.start(command, kind, flags)
            errors = [line for line in run.output.splitlines() if line.startswith("error: ")]
            if status != 2 or len(errors) != 1 or not all(word in errors[0] for word in words):
                failed.append(f"{command} {kind} {' '.join(flags)}: status {status}\n{run.output[-500:]}")
    print(*failed, f"{len(CASES)} requests, {len(failed)} not refused as they should be", sep="\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
