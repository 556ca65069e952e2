"""A LISA of a few thousand parameters with scenes and prepared shards: what `tessera train` needs to run in seconds."""
import json
import os
import shutil
import subprocess
from pathlib import Path

LANGUAGE_AND_SAM = {
    "model_type": "llava", "architectures": ["LISAForCausalLM"], "vocab_size": 512, "hidden_size": 48,
    "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4,
    "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "max_position_embeddings": 1024, "initializer_range": 0.1,
    "hidden_act": "silu", "tie_word_embeddings": False,
    "mm_vision_tower": "clip", "mm_hidden_size": 32, "mm_vision_select_layer": -2, "mm_vision_select_feature": "patch",
    "mm_use_im_start_end": True, "out_dim": 32, "train_mask_decoder": True,
    "sam_config": {
        "image_size": 64, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "mlp_ratio": 4.0,
        "global_attn_indexes": [1], "window_size": 5, "prompt_embed_dim": 32, "mask_in_chans": 16, "decoder_depth": 2,
        "decoder_mlp_dim": 64, "decoder_num_heads": 4, "num_multimask_outputs": 3, "iou_head_depth": 3,
        "iou_head_hidden_dim": 32, "norm_eps": 1e-6}}
CLIP = {
    "model_type": "clip_vision_model", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3,
    "num_attention_heads": 2, "image_size": 32, "patch_size": 8, "num_channels": 3, "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5, "initializer_range": 0.1}
PROCESSOR = {
    "size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}, "do_resize": True, "do_center_crop": True,
    "do_normalize": True, "resample": 3, "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711]}


def run(*command, **more):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, **more)
    if done.returncode:
        raise RuntimeError(f"{command[0]} ended with {done.returncode}:\n{done.stdout}{done.stderr}")


def make(folder, root, program):
    """Writes model, scenes and shards into `folder`; returns the flags that `tessera train` needs for them."""
    scenes, model, shards = folder / "scenes", folder / "model", folder / "shards"
    run(os.environ["TESSERA_PYTHON"], root / "launch" / "make_scenes.py", "--out", scenes, "--size", 64, "--train", 8,
        "--train_describe", 2, "--val", 2)
    (model / "clip").mkdir(parents=True)
    (model / "config.json").write_text(json.dumps(LANGUAGE_AND_SAM))
    (model / "clip" / "config.json").write_text(json.dumps(CLIP))
    (model / "clip" / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    shutil.copy(root / "launch" / "toy" / "lisa" / "tokenizer.model", model)
    run(program, "prepare", "--version", model, "--dataset_dir", scenes, "--output_dir", shards, "--reason_seg_data",
        "ReasonSeg|train_names", "--val_dataset", "ReasonSeg|val_names", "--explanatory", -1)
    return ["--version", model, "--random_init", "--shards", shards, "--batch_size", 1, "--global_batch_size", 4,
            "--warmup_steps", 3, "--lr", "1e-3", "--workers", 1, "--model_max_length", 400, "--lora_r", 4]


def steps(run_folder):
    """The step numbers of a run's metrics.jsonl, in the file's order; none while there is no file."""
    file = Path(run_folder) / "metrics.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    return [line["step"] for line in map(json.loads, lines) if "loss" in line]
