"""LISA on other language models than LLaMA: Qwen2 (grouped heads, its head tied to the embedding) and MPT train by
`tessera train` on two ranks as on one, to the last bit; masks get better; and what is written out opens in
`tessera eval`, with the validation's own figures.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "cli/flags"))

from toy import LANGUAGE, LISA, PROGRAM, Toy  # noqa: E402

MPIEXEC = os.environ.get("TESSERA_MPIEXEC", "mpirun")
STEPS = 24
MPT = {k: v for k, v in LISA.items() if k not in LANGUAGE} | {
    "model_type": "llava_mpt", "vocab_size": 640, "d_model": 48, "n_heads": 4, "n_layers": 2, "expansion_ratio": 2,
    "max_seq_len": 1024, "no_bias": True, "attn_config": {"alibi": True}}
FAMILIES = {
    "qwen2": (LISA | {"model_type": "llava_qwen2", "num_key_value_heads": 2, "tie_word_embeddings": True},
              ["--lora_r", 4]),
    "mpt": (MPT, ["--lora_r", 4, "--lora_target_modules", "Wqkv"]),
    "mpt_whole": (MPT, ["--lora_r", 0, "--train_scope", "full"]),
}


def run(ranks, *arguments, status=0):
    command = [MPIEXEC, "--oversubscribe", "--bind-to", "none", "-n", str(ranks), PROGRAM, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=dict(
        os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1", OMP_NUM_THREADS="1"))
    assert done.returncode == status, f"{arguments}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stderr


def train(root, name, ranks, flags):
    folder = root / f"{name}_{ranks}"
    run(ranks, "train", "--version", root / name, "--random_init", "--shards", root / "shards-lisa", "--val_shards",
        root / "shards-lisa", "--batch_size", 2, "--global_batch_size", 4, "--workers", 1, "--lora_dropout", 0,
        "--model_max_length", 400, "--warmup_steps", 0, "--lr", "1e-2", "--bce_loss_weight", 0.1, "--dice_loss_weight", 2,
        "--max_steps", STEPS, "--eval_steps", STEPS, "--output_dir", folder, *flags)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "loss" in line], [line for line in lines if "val_giou" in line][-1]


def check(root, toy, name):
    config, flags = FAMILIES[name]
    toy.model(name, config)
    curves = [train(root, name, ranks, flags) for ranks in (1, 2)]
    losses = [[step["loss"] for step in steps] for steps, _ in curves]
    assert losses[0] == losses[1], (name, losses)
    masks = [step["mask_loss"] for step in curves[0][0]]
    assert sum(losses[0][-4:]) < 0.8 * sum(losses[0][:4]) and sum(masks[-4:]) < sum(masks[:4]), (name, losses[0], masks)
    judged = root / f"{name}.json"
    run(1, "eval", "--version", root / f"{name}_2" / "merged", "--val_shards", root / "shards-lisa", "--output", judged)
    found, wanted = json.loads(judged.read_text()), curves[1][1]
    assert found["giou"] > 0, "no mask was found, so nothing is compared"
    assert abs(found["giou"] - wanted["val_giou"]) < 1e-4 and found["masks"] == wanted["val_masks"], (found, wanted)
    print(f"{name}: loss {losses[0][0]:.3f} -> {losses[0][-1]:.3f}, gIoU {found['giou']:.3f}")


def refuses_one_for_both(root, name, target):
    """An adapter on an embedding that is the head as well cannot be merged into one weight."""
    said = run(1, "train", "--version", root / name, "--random_init", "--shards", root / "shards-lisa", "--lora_r", 4,
               "--target_modules", target, "--max_steps", 1, "--output_dir", root / f"{name}_both", status=2)
    assert f"{target} would change the head" in said, said


def main():
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        toy = Toy(root)
        for name in FAMILIES:
            check(root, toy, name)
        refuses_one_for_both(root, "qwen2", "embed_tokens")
        refuses_one_for_both(root, "mpt", "wte")


main()
