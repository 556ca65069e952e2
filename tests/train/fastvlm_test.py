"""FastVLM in transformers' form by `tessera train --recipe llava`: every step's loss beside those of transformers, timm and
PEFT (tests/golden/train/fastvlm.py) on one rank and on three, through a kill and a resume; what is written has the names
of the folder it came from, and adapters PEFT's.
"""
import json
import pathlib
import shutil
import tempfile

import torch
from llava_toy import SOURCE, killed_and_resumed, must, near, read_rows
from safetensors.torch import load_file

GOLDEN = SOURCE / "tests/golden/train/data/fastvlm"
EXPECTED = json.loads((GOLDEN / "expected.json").read_text())
TOWER = "model.vision_tower.timm_model."


def prepare(root):
    shutil.copytree(GOLDEN, root / "base", ignore=shutil.ignore_patterns("adapter", "images", "expected.json"))
    for name in ("tokenizer.model", "tokenizer_config.json"):
        shutil.copy(SOURCE / "launch/toy/lisa" / name, root / "base" / name)
    must(1, "prepare", "--dataset", "llava", "--data_path", GOLDEN / "chat.json", "--image_folder", GOLDEN / "images",
         "--version", root / "base", "--conv_type", "v1", "--draws", 1, "--output_dir", root / "shards", "--val_dataset", "")
    rows = []
    for ids, _, _ in read_rows(root / "shards"):
        rows.append([i for token in ids.tolist() for i in ([649] * 4 if token == -200 else [token])])
    assert sorted(rows) == EXPECTED["rows"], "the samples are not the golden's"


def flags_of(root, version="base"):
    return ["train", "--recipe", "llava", "--version", root / version, "--shards", root / "shards", "--global_batch_size", 6,
            "--batch_size", 1, "--weight_decay", 0.1, "--lora_dropout", 0, "--log_base_dir", root / "runs"]


def train(root, name, ranks, *flags, steps=6, version="base"):
    must(ranks, *flags_of(root, version), "--max_steps", steps, "--warmup_steps", 2, "--exp_name", name, *flags)
    folder = root / "runs" / name
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return folder, [line["loss"] for line in lines if "loss" in line]


def stages(root):
    """Their losses; the merged folder has the tensors and the settings of the one it came from."""
    base = {n: t for n, t in load_file(GOLDEN / "model.safetensors").items() if not n.endswith("num_batches_tracked")}
    config = json.loads((GOLDEN / "config.json").read_text())
    for name, flags in [("projector", ["--tune_mm_mlp_adapter", "--lr", 1e-2]), ("frozen_tower", ["--lr", 5e-3]),
                        ("trained_tower", ["--lr", 5e-3, "--unfreeze_mm_vision_tower", "--mm_vision_tower_lr", 3e-2])]:
        for ranks in (1, 3):
            folder, losses = train(root, f"{name}_{ranks}", ranks, *flags, "--export_merged", str(ranks == 3).lower())
            near(losses, EXPECTED[name], f"{name}, {ranks} ranks")
        written = load_file(folder / "merged/model.safetensors")
        assert {n: t.shape for n, t in written.items()} == {n: t.shape for n, t in base.items()}, name
        moved = {n for n in base if not torch.equal(written[n], base[n])}
        assert any(n.startswith(TOWER) for n in moved) == (name == "trained_tower"), name
        assert any("language_model" in n for n in moved) == (name != "projector"), name
        said = json.loads((folder / "merged/config.json").read_text())
        for part in (said, said["text_config"], said["vision_config"]):
            part.pop("torch_dtype")
        config["text_config"].setdefault("dtype", said["text_config"].get("dtype"))
        assert said == config | {"text_config": said["text_config"], "vision_config": said["vision_config"]}, said
        assert (folder / "merged/preprocessor_config.json").exists()
    after = train(root, "again", 2, "--lr", 0, steps=1, version="runs/trained_tower_3/merged")[1]
    assert after[0] < EXPECTED["trained_tower"][-1] * 1.01, after


def adapters(root):
    """One of PEFT's, which lies on attention and convolutions of the tower too, goes on as in PEFT; names are PEFT's."""
    for ranks in (1, 3):
        folder, losses = train(root, f"adapter_{ranks}", ranks, "--adapter", GOLDEN / "adapter", "--lr", 1e-2,
                               "--export_merged", "false")
        near(losses, EXPECTED["adapter"], f"from PEFT's adapter, {ranks} ranks")
    first = load_file(GOLDEN / "adapter/adapter_model.safetensors")
    written = load_file(folder / "adapter/adapter_model.safetensors")
    assert {n: t.shape for n, t in written.items()} == {n: t.shape for n, t in first.items()}
    still = [n for n in first if torch.equal(first[n], written[n])]
    assert not still, still
    folder, _ = train(root, "lora", 2, "--lora_enable", "--lora_r", 2, "--lr", 1e-2, steps=2)
    assert sorted(load_file(folder / "adapter/adapter_model.safetensors")) == EXPECTED["language_names"]
    config = json.loads((folder / "adapter/adapter_config.json").read_text())
    assert config["modules_to_save"] == ["multi_modal_projector"], config
    assert (folder / "merged/model.safetensors").exists()


with tempfile.TemporaryDirectory() as name:
    root = pathlib.Path(name)
    prepare(root)
    stages(root)
    adapters(root)
    killed_and_resumed(root / "runs", [*flags_of(root), "--lora_enable", "--lora_r", 2, "--lr", 1e-3, "--save_steps", 1,
                                       "--max_steps", 40])
print("ok")
