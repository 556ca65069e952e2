"""LLaVA with pictures in tiles (anyres) by `tessera train --recipe llava` beside the same in PyTorch: transformers' LLaMA,
CLIP, LlavaNext's processor, which cuts the tiles, and its way of laying their features out; torch's AdamW. Losses of
every step on 1, 2 and 3 ranks, through a kill and a resume, of each way of merging; what is written, and a llava_next
folder, which transformers opens again.
"""

import json
import pathlib
import shutil
import tempfile
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image
from llava_toy import HIDDEN, SIDE, SOURCE, Reference, killed_and_resumed, make_models, must, near, read_rows, run
from safetensors.torch import load_file
from transformers import (AutoModelForImageTextToText, CLIPVisionConfig, LlamaConfig, LlavaNextConfig,
                          LlavaNextForConditionalGeneration)
from transformers.models.llava_next.image_processing_llava_next import LlavaNextImageProcessor
from transformers.models.llava_next.modeling_llava_next import LlavaNextModel

STEPS = 5
PLACES = [(56, 28), (28, 84), (56, 56)]  # width, height
# Width and height; none: text alone. The borders on the grid are even, as transformers' own port needs them.
PICTURES = [(70, 25), (20, 120), None, (50, 50), (48, 64), (56, 20)]
ANYRES = ["--image_aspect_ratio", "anyres", "--image_grid_pinpoints", str(PLACES)]
UNPAD = [*ANYRES, "--mm_patch_merge_type", "spatial_unpad"]


def make_data(root):
    (root / "images").mkdir()
    records = []
    for number, size in enumerate(PICTURES):
        question = ("<image>\n" if size else "") + ["What is it?", "Which colour?", "Why so?"][number % 3]
        record = {"id": str(number), "conversations": [
            {"from": "human", "value": question},
            {"from": "gpt", "value": "It is a thing" + " of some kind" * (number % 4) + "."}]}
        if size:
            noise = np.random.default_rng(number).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
            Image.fromarray(noise).save(root / "images" / f"{number}.png")
            record["image"] = f"{number}.png"
        records.append(record)
    (root / "chat.json").write_text(json.dumps(records))
    must(1, "prepare", "--dataset", "llava", "--data_path", root / "chat.json", "--image_folder", root / "images",
         "--version", root / "base", "--conv_type", "v1", "--draws", 1, "--output_dir", root / "shards", "--val_dataset", "")


def read_samples(root):
    """(ids, labels, tiles or None, (height, width)) of every sample."""
    processor = LlavaNextImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE},
                                        image_grid_pinpoints=[[h, w] for w, h in PLACES])
    samples = []
    for ids, labels, name in read_rows(root / "shards"):
        tiles, size = None, None
        if name:
            picture = Image.open(root / "images" / name).convert("RGB")
            tiles = torch.tensor(np.array(processor(picture, return_tensors="np")["pixel_values"][0]))
            size = (picture.height, picture.width)
        samples.append((ids, labels, tiles, size))
    assert sum(s[2] is None for s in samples) == 1 and {len(s[2]) for s in samples if s[2] is not None} == {3, 4, 5}
    return samples


class InTiles(Reference):
    def __init__(self, root, first, merge):
        super().__init__(root, first)
        self.merge = merge
        self.newline = torch.nn.Parameter(torch.load(first)["model.image_newline"])
        self.shape = SimpleNamespace(config=SimpleNamespace(
            image_grid_pinpoints=[[h, w] for w, h in PLACES],
            vision_config=SimpleNamespace(image_size=SIDE, patch_size=14)))

    def features(self, pixels, size):
        states = self.tower(pixels, output_hidden_states=True).hidden_states
        tiles = self.projector(states[-2][:, 1:])
        if self.merge == "flat":
            return tiles.flatten(0, 1)
        if self.merge == "spatial_unpad":
            return LlavaNextModel.pack_image_features(self.shape, [tiles], [size], "default", self.newline)[0][0]
        assert self.merge == "spatial"
        width = next(w for w, h in PLACES if 1 + (w // SIDE) * (h // SIDE) == len(tiles)) // SIDE
        grid = tiles[1:].view(-1, width, 2, 2, HIDDEN).transpose(1, 2).flatten(0, 3)
        return torch.cat([tiles[0], grid])


def train(root, name, ranks, *flags, steps=STEPS, version="base"):
    tower = ["--vision_tower", root / "clip", "--mm_projector_type", "mlp2x_gelu",
             "--mm_vision_select_layer", -2] if version == "base" else []
    must(ranks, "train", "--recipe", "llava", "--version", root / version, *tower, "--shards", root / "shards",
         "--group_by_modality_length", "--global_batch_size", 6, "--batch_size", 1, "--max_steps", steps,
         "--warmup_steps", 2, "--weight_decay", 0.1, "--log_base_dir", root / "runs", "--exp_name", name, *flags)
    folder = root / "runs" / name
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return folder, [line["loss"] for line in lines if "loss" in line]


def whole_model(root, samples):
    reference = InTiles(root, root / "first.bin", "spatial_unpad")
    trained = list(reference.language.named_parameters()) + [("model.image_newline", reference.newline)]
    trained += [(f"model.mm_projector.{k}", p) for k, p in reference.projector.named_parameters()]
    want = reference.train(samples, trained, 2e-3, steps=STEPS)
    found = []
    for ranks in (1, 2, 3):
        folder, losses = train(root, f"whole_{ranks}", ranks, *UNPAD, "--lr", 2e-3, "--pretrain_mm_mlp_adapter",
                               root / "first.bin")
        near(losses, want, f"spatial_unpad, {ranks} ranks")
        found.append(losses)
    assert found[0] == found[1] == found[2], found
    config = json.loads((folder / "merged" / "config.json").read_text())
    assert (config["image_aspect_ratio"], config["mm_patch_merge_type"]) == ("anyres", "spatial_unpad"), config
    assert config["image_grid_pinpoints"] == str(PLACES), config
    written = load_file(folder / "merged" / "model.safetensors")["model.image_newline"]
    before = torch.load(root / "first.bin")["model.image_newline"]
    assert torch.allclose(written, reference.newline, atol=1e-4), (written - reference.newline).abs().max()
    assert (written - before).abs().max() > 1e-3, "image_newline did not train"
    # The next run finds its way of taking pictures in the folder.
    shutil.move(folder / "merged", root / "finished")
    _, again = train(root, "again", 2, "--lr", 0, "--vision_tower", root / "clip", version="finished", steps=1)
    with torch.no_grad():
        near(again, [reference.loss(samples).item()], "from the folder that was written", learned=False)


def other_merges(root, samples):
    for merge in ("flat", "spatial"):
        reference = InTiles(root, root / "first.bin", merge)
        with torch.no_grad():
            want = [reference.loss(samples).item()]
        _, losses = train(root, merge, 2, *ANYRES, "--mm_patch_merge_type", merge, "--lr", 0, "--pretrain_mm_mlp_adapter",
                          root / "first.bin", "--export_merged", "false", steps=1)
        near(losses, want, merge, learned=False)


def stage_one(root):
    """The projector alone trains; image_newline is drawn, stays, and goes along to the next stage, where it trains."""
    folder, _ = train(root, "one", 2, *UNPAD, "--tune_mm_mlp_adapter", "--lr", 1e-2, "--export_merged", "false", steps=2)
    later, _ = train(root, "one_longer", 1, *UNPAD, "--tune_mm_mlp_adapter", "--lr", 1e-2, "--export_merged", "false")
    drawn, same = (torch.load(f / "mm_projector.bin")["model.image_newline"] for f in (folder, later))
    assert torch.equal(drawn, same) and 0.3 < drawn.std() * HIDDEN**0.5 < 2, drawn
    lora, _ = train(root, "lora", 2, *UNPAD, "--lora_enable", "--lora_r", 2, "--lr", 1e-2, "--pretrain_mm_mlp_adapter",
                    folder / "mm_projector.bin", steps=2)
    others = torch.load(lora / "adapter" / "non_lora_trainables.bin")
    assert not torch.equal(others["base_model.model.model.image_newline"], drawn)


def a_kill(root):
    flags = ["train", "--recipe", "llava", "--version", root / "base", "--vision_tower", root / "clip",
             "--mm_projector_type", "mlp2x_gelu", "--mm_vision_select_layer", -2, "--shards", root / "shards", "--batch_size", 1,
             "--global_batch_size", 4,
             "--log_base_dir", root / "runs", *UNPAD, "--save_steps", 1, "--max_steps", 40, "--lr", 1e-3]
    killed_and_resumed(root / "runs", flags)


def llava_next(root, samples):
    """A folder in transformers' form trains, and transformers opens what is written."""
    torch.manual_seed(5)
    toy = json.loads((SOURCE / "launch" / "toy" / "lisa" / "config.json").read_text())
    config = LlavaNextConfig(
        vision_config=CLIPVisionConfig(hidden_size=20, intermediate_size=40, num_hidden_layers=3, num_attention_heads=4,
                                       image_size=SIDE, patch_size=14, projection_dim=8),
        text_config=LlamaConfig(vocab_size=toy["vocab_size"], hidden_size=HIDDEN, intermediate_size=48,
                                num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2),
        image_grid_pinpoints=[[h, w] for w, h in PLACES], image_token_index=toy["vocab_size"] - 1)
    config._attn_implementation = "eager"
    model = LlavaNextForConditionalGeneration(config).eval()
    model.save_pretrained(root / "next")
    for name in ("tokenizer.model", "tokenizer_config.json"):
        shutil.copy(root / "base" / name, root / "next" / name)
    shutil.copy(root / "clip" / "preprocessor_config.json", root / "next" / "preprocessor_config.json")

    def loss_of(model):
        total, count = 0, 0
        for ids, labels, tiles, size in samples:
            features = []
            if tiles is not None:
                features = model.model.get_image_features(tiles[None], torch.tensor([size]))
                at = int((ids == -200).nonzero())
                ids = torch.cat([ids[:at], torch.full((len(features[0]),), config.image_token_index), ids[at + 1 :]])
                labels = torch.cat([labels[:at], torch.full((len(features[0]),), -100), labels[at + 1 :]])
            given = {} if tiles is None else dict(pixel_values=tiles[None], image_sizes=torch.tensor([size]))
            logits = model(input_ids=ids[None], **given).logits[0, :-1]
            total += torch.nn.functional.cross_entropy(logits, labels[1:], ignore_index=-100, reduction="sum").item()
            count += int((labels[1:] != -100).sum())
        return total / count

    with torch.no_grad():
        first = loss_of(model)
        folder, losses = train(root, "next_run", 2, "--lr", 5e-3, version="next", steps=3)
        near(losses[:1], [first], "llava_next", learned=False)
        opened = AutoModelForImageTextToText.from_pretrained(folder / "merged", attn_implementation="eager").eval()
        _, after = train(root, "next_after", 1, "--lr", 0, version="runs/next_run/merged", steps=1)
        near(after, [loss_of(opened)], "llava_next, as transformers opens it", learned=False)
    assert not torch.equal(opened.model.image_newline, model.model.image_newline), "image_newline did not train"
    assert after[0] < first


def refusals(root):
    here = ["train", "--recipe", "llava", "--vision_tower", root / "clip", "--shards", root / "shards"]
    for version, flags, words in [
        ("base", ["--mm_patch_merge_type", "spatial_unpad"], "--image_aspect_ratio anyres"),
        ("base", ["--image_grid_pinpoints", str(PLACES)], "--image_aspect_ratio anyres"),
        ("base", ["--image_aspect_ratio", "anyres"], "--image_grid_pinpoints"),
        ("base", ["--image_aspect_ratio", "anyres", "--image_grid_pinpoints", "[(30, 28)]", "--mm_patch_merge_type",
                  "spatial"], "30 x 28"),
        ("base", ["--image_aspect_ratio", "round"], "'round'"),
        ("next", ["--image_aspect_ratio", "pad"], "llava_next"),
    ]:
        done = run(1, *here, "--version", root / version, *flags)
        errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert done.returncode == 2 and len(errors) == 1 and words in errors[0], (flags, done.stderr)
    done = run(1, "prepare", "--dataset", "llava", "--data_path", root / "chat.json", "--image_folder", root / "images",
               "--version", root / "base", "--output_dir", root / "tiled", "--val_dataset", "", "--store_features", "clip",
               "--vision_tower", root / "clip", "--image_aspect_ratio", "anyres")
    assert done.returncode == 2 and "anyres" in done.stderr and "without --store_features" in done.stderr, done.stderr


with tempfile.TemporaryDirectory() as name:
    root = pathlib.Path(name)
    make_models(root)
    first = torch.load(root / "first.bin") | {"model.image_newline": torch.randn(HIDDEN) * 0.2}
    torch.save(first, root / "first.bin")
    make_data(root)
    samples = read_samples(root)
    whole_model(root, samples)
    other_merges(root, samples)
    stage_one(root)
    a_kill(root)
    llava_next(root, samples)
    refusals(root)
print("ok")
