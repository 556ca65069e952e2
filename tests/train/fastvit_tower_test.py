"""`tessera train` beside a FastViT instead of a CLIP: FastVLM in Apple's form under --recipe llava, its tower frozen, trained,
or under LoRA, and a LISA whose vision tower is a FastViT. On 1, 2 and 3 ranks the losses and what is written are the same;
a tower that did not train keeps its bytes.
"""
import json
import os
import pathlib
import shutil
import subprocess
import tempfile

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

SOURCE = pathlib.Path(os.environ["TESSERA_SOURCE_DIR"])
FASTVLM = SOURCE / "tests/golden/models/data/fastvlm_apple"
TOY = SOURCE / "launch/toy/lisa"
TOWER = "model.vision_tower.vision_tower."
SMALL = {"model_type": "fastvithd", "image_size": 64, "layers": [1, 1, 1], "embed_dims": [8, 16, 32],
         "mlp_ratios": [2, 2, 1], "token_mixers": ["repmixer", "repmixer", "attention"], "pos_embs": [False, False, True],
         "inference_mode": True}


def tessera(ranks, *arguments):
    environment = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1", OMP_NUM_THREADS="1")
    done = subprocess.run(["mpirun", "--oversubscribe", "--bind-to", "none", "-n", str(ranks),
                           os.environ["TESSERA_PROGRAM"], *map(str, arguments)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{arguments}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout + done.stderr


def fastvlm(root):
    """The golden's folder with a tokenizer, whose vocabulary is larger than the weights'."""
    shutil.copytree(FASTVLM, root / "fastvlm", ignore=shutil.ignore_patterns("expected.*", "inputs.*"))
    for name in ("tokenizer.model", "tokenizer_config.json"):
        shutil.copy(TOY / name, root / "fastvlm" / name)
    (root / "images").mkdir()
    records = []
    for number in range(6):
        record = {"id": str(number), "conversations": [
            {"from": "human", "value": ("<image>\n" if number != 2 else "") + "What is it?"},
            {"from": "gpt", "value": "It is a thing" + " of some kind" * number + "."}]}
        if number != 2:  # one of text alone
            pixels = np.random.default_rng(number).integers(0, 255, (30 + 5 * number, 41, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / "images" / f"{number}.png")
            record["image"] = f"{number}.png"
        records.append(record)
    (root / "chat.json").write_text(json.dumps(records))
    tessera(1, "prepare", "--dataset", "llava", "--data_path", root / "chat.json", "--image_folder", root / "images",
            "--version", root / "fastvlm", "--conv_type", "v1", "--draws", 1, "--output_dir", root / "chat", "--val_dataset", "")


def lisa(root):
    """The toy LISA with a FastViT's folder in the place of CLIP's."""
    shutil.copytree(TOY, root / "lisa", ignore=shutil.ignore_patterns("clip"))
    config = json.loads((TOY / "config.json").read_text()) | {"mm_vision_tower": "tower", "mm_hidden_size": 64}
    (root / "lisa/config.json").write_text(json.dumps(config))
    (root / "lisa/tower").mkdir()
    (root / "lisa/tower/config.json").write_text(json.dumps(SMALL))
    subprocess.run([os.environ["TESSERA_PYTHON"], SOURCE / "launch/make_scenes.py", "--out", root / "scenes", "--size", "64",
                    "--train", "6", "--train_describe", "2", "--val", "2"], check=True, stdout=subprocess.DEVNULL)
    tessera(2, "prepare", "--version", root / "lisa", "--dataset_dir", root / "scenes", "--output_dir", root / "masks",
            "--reason_seg_data", "ReasonSeg|train_names", "--val_dataset", "ReasonSeg|val_names", "--explanatory", -1)


def on_any_ranks(root, what, model, shards, *flags):
    """Trains on 1, 2 and 3 ranks, with the same losses and weights; returns the last run's folder."""
    runs = {}
    for ranks in (1, 2, 3):
        name = f"{what}_{ranks}"
        tessera(ranks, "train", "--version", model, "--shards", shards, "--global_batch_size", 6, "--batch_size", 1,
                "--max_steps", 4, "--warmup_steps", 1, "--lr", 5e-3, "--log_base_dir", root / "runs", "--exp_name", name,
                "--workers", 1, "--placement", "world", *flags)
        folder = root / "runs" / name
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        runs[ranks] = folder, [line["loss"] for line in lines if "loss" in line]
        found, wanted = runs[ranks][1], runs[1][1]
        assert len(found) == 4 and found == wanted, (what, ranks, found, wanted)
    losses = runs[1][1]
    assert losses[-1] < losses[0], (what, losses)
    if (runs[1][0] / "merged").exists():
        written = [load_file(runs[r][0] / "merged/model.safetensors") for r in (1, 3)]
        assert set(written[0]) == set(written[1])
        for name, tensor in written[1].items():
            assert torch.equal(written[0][name], tensor), (what, name)
    print(f"{what}: {losses[0]:.4f} -> {losses[-1]:.4f}, the same on 1, 2 and 3 ranks")
    return runs[3][0]


def added_rows(root, folder, old, run):
    """Where nothing else of the vocabulary trains: the mean of the others by default, drawn where that is asked for."""
    tessera(1, "train", "--version", root / "fastvlm", "--shards", root / "chat", *run, "--tune_mm_mlp_adapter",
            "--new_token_init", "normal", "--global_batch_size", 6, "--batch_size", 1, "--max_steps", 1, "--log_base_dir", root / "runs",
            "--exp_name", "normal")
    for what in (folder, root / "runs/normal"):
        rows = load_file(what / "merged/model.safetensors")["model.embed_tokens.weight"]
        assert torch.equal(rows[:len(old)], old) and len(rows) > len(old), what
        added, mean = rows[len(old):], old.mean(0, keepdim=True).expand(len(rows) - len(old), -1)
        if what == folder:
            torch.testing.assert_close(added, mean, rtol=1e-5, atol=1e-7)
        else:
            assert 0.015 < added.std() < 0.025, added.std()


def check_fastvlm(root):
    base = load_file(FASTVLM / "model.safetensors")
    run = ["--recipe", "llava"]
    model, shards = root / "fastvlm", root / "chat"
    folder = on_any_ranks(root, "projector", model, shards, *run, "--tune_mm_mlp_adapter")
    projector = torch.load(folder / "mm_projector.bin", weights_only=True)
    assert set(projector) == {n for n in base if "mm_projector" in n}
    added_rows(root, folder, base["model.embed_tokens.weight"], run)
    for what, flags, trains in [
            ("frozen tower", ["--unfreeze_mm_vision_tower", "false"], False),
            ("trained tower", ["--mm_vision_tower_lr", 1e-3], True),  # as its config.json says
            ("adapters", ["--lora_enable", "--lora_r", 4, "--lora_dropout", 0], False)]:
        folder = on_any_ranks(root, what.replace(" ", "_"), model, shards, *run, *flags)
        merged = load_file(folder / "merged/model.safetensors")
        # A count of training batches is no weight: it is read past and not written.
        kept = {name for name in base if not name.endswith(".num_batches_tracked")}
        assert set(merged) == kept, set(merged) ^ kept
        moved = {n for n in kept if n.startswith(TOWER) and not torch.equal(merged[n], base[n])}
        assert bool(moved) == trains, (what, len(moved))
        config = json.loads((folder / "merged/config.json").read_text())
        assert config["mm_vision_tower"] == "mobileclip_l_40" and config["model_type"] == "llava_qwen2", config
        rows = merged["model.embed_tokens.weight"]
        assert len(rows) == config["vocab_size"] > len(base["model.embed_tokens.weight"])
    assert config["unfreeze_mm_vision_tower"] is True, config
    again = on_any_ranks(root, "again", folder / "merged", shards, *run, "--export_merged", "false")
    assert (again / "metrics.jsonl").exists()


def check_lisa(root):
    folder = on_any_ranks(root, "lisa", root / "lisa", root / "masks", "--random_init", "--model_max_length", 400)
    merged = load_file(folder / "merged/model.safetensors")
    assert f"{TOWER}model.patch_embed.0.reparam_conv.weight" in merged
    config = json.loads((folder / "merged/config.json").read_text())
    assert (folder / "merged" / config["mm_vision_tower"] / "config.json").exists()
    told = tessera(2, "eval", "--version", folder / "merged", "--val_shards", root / "masks")
    assert "iou" in told.lower(), told


with tempfile.TemporaryDirectory() as name:
    root = pathlib.Path(name)
    fastvlm(root)
    check_fastvlm(root)
    lisa(root)
    check_lisa(root)
print("ok")
