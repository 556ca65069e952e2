"""Ten steps of LISA by `tessera train` beside the same in PyTorch, wired as the reference is: transformers' LLaMA, CLIP
and SAM, PEFT's LoRA, torch's AdamW under DeepSpeed's WarmupDecayLR; fp32, no dropout. Every step's losses, each by
itself, on one rank and on three, with the reference's normalisation and with that over the global batch.
"""

import io
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import h5py
import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from PIL import Image
from pycocotools import mask as coco
from safetensors.torch import load_file, save_file
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM

SOURCE = pathlib.Path(os.environ["TESSERA_SOURCE_DIR"])
PROGRAM = os.environ["TESSERA_PROGRAM"]
MPIEXEC = os.environ.get("TESSERA_MPIEXEC", "mpirun")
sys.path.insert(0, str(SOURCE / "tests/golden/models"))
from common import randomise  # noqa: E402
from sam_common import GAUSSIAN, build_sam, decode_text, facebook_weights, mask_losses, postprocess  # noqa: E402

STEPS, RATE, WARMUP, IMAGES = 10, 0.01, 3, 6
LLAMA = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=4,
             rms_norm_eps=1e-6, max_position_embeddings=512)
CLIP = dict(hidden_size=20, intermediate_size=28, num_hidden_layers=3, num_attention_heads=2, image_size=21, patch_size=7,
            hidden_act="quick_gelu", layer_norm_eps=1e-5)
SAM = dict(image_size=40, patch_size=8, embed_dim=24, depth=2, num_heads=3, global_attn_indexes=[1], window_size=3,
           prompt_embed_dim=16, mask_in_chans=8, decoder_depth=2, decoder_mlp_dim=20, decoder_num_heads=2,
           num_multimask_outputs=3, iou_head_depth=3, iou_head_hidden_dim=12, mlp_ratio=2.0)
WEIGHTS = {"ce_loss": 1.0, "mask_bce_loss": 2.0, "mask_dice_loss": 0.5}
torch.set_num_threads(1)


def tessera(ranks, *arguments):
    environment = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1", OMP_NUM_THREADS="1")
    command = [MPIEXEC, "--oversubscribe", "--bind-to", "none", "-n", str(ranks), PROGRAM, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{arguments}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


class Lisa(torch.nn.Module):
    """The reference's wiring (dvlab-research/LISA model/LISA.py) over the public packages' parts."""

    def __init__(self, vocabulary):
        super().__init__()
        self.llama = LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, attn_implementation="eager", **LLAMA))
        self.clip = CLIPVisionModel(CLIPVisionConfig(attn_implementation="eager", **CLIP))
        self.sam, _ = build_sam(SAM, 1e-5, 7)
        self.projector = torch.nn.Linear(CLIP["hidden_size"], LLAMA["hidden_size"])
        width, prompt = LLAMA["hidden_size"], SAM["prompt_embed_dim"]
        self.fcs = torch.nn.Sequential(torch.nn.Linear(width, width), torch.nn.ReLU(), torch.nn.Linear(width, prompt))
        for seed, part in enumerate((self.llama, self.clip, self.projector, self.fcs)):
            randomise(part, 0.2, 20 + seed)

    def weights(self):
        """Under the names of a LISA folder."""
        out = dict(self.llama.named_parameters())
        out |= {f"model.mm_projector.{n}": p for n, p in self.projector.named_parameters()}
        out |= {f"model.vision_tower.vision_tower.{n}": p for n, p in self.clip.named_parameters()}
        out |= {f"model.visual_model.{n}": p for n, p in facebook_weights(self.sam).items()}
        out |= {f"model.text_hidden_fcs.0.{n}": p for n, p in self.fcs.named_parameters()}
        return out | {f"model.visual_model.{GAUSSIAN}": self.sam.shared_image_embedding.positional_embedding}

    def adapt(self, drawn):
        """LoRA as it was drawn on the other side, and what else the reference trains."""
        self.llama = get_peft_model(self.llama, LoraConfig(r=4, lora_alpha=8, lora_dropout=0.0, task_type="CAUSAL_LM",
                                                           target_modules=["q_proj", "v_proj"]))
        own = {n.replace(".default.", "."): p for n, p in self.llama.named_parameters() if "lora_" in n}
        assert set(own) == set(drawn), set(own) ^ set(drawn)
        with torch.no_grad():
            for name, p in own.items():
                p.copy_(drawn[name])
        trained = ("lora_", "lm_head", "embed_tokens", "mask_decoder", "fcs")
        for name, p in self.named_parameters():
            p.requires_grad_(any(part in name for part in trained))
        return [p for p in self.parameters() if p.requires_grad]

    def forward(self, sample):
        """One image: sums of the text loss and of both mask losses, and how many targets and masks there are."""
        with torch.no_grad():
            embedding = self.sam.vision_encoder(sample["sam"])[0]
            features = self.clip(sample["clip"], output_hidden_states=True).hidden_states[-2][0, 1:]
            projected = self.projector(features)
        text, targets, prompts = 0, 0, []
        for ids, labels in sample["conversations"]:
            embed = self.llama.get_input_embeddings()
            at = int((ids == -200).nonzero())
            rows = torch.cat([embed(ids[:at]), projected, embed(ids[at + 1 :])])
            labels = torch.cat([labels[:at], torch.full((len(projected),), -100), labels[at + 1 :]])
            out = self.llama(inputs_embeds=rows[None], output_hidden_states=True)
            text = text + torch.nn.functional.cross_entropy(out.logits[0, :-1], labels[1:], ignore_index=-100,
                                                            reduction="sum")
            targets += int((labels[1:] != -100).sum())
            places = (ids == sample["seg"]).nonzero()[:, 0] + len(projected) - 2  # the position that predicts it
            prompts.append(self.fcs(out.hidden_states[-1][0, places]))
        prompts, masks = torch.cat(prompts), sample["masks"]
        assert len(prompts) == len(masks)
        if len(masks) == 0:
            return text, targets, torch.zeros(()), torch.zeros(()), 0
        low, _ = decode_text(self.sam, embedding, prompts)
        predicted = postprocess(low, SAM["image_size"], sample["resized"], masks.shape[1:])
        bce, dice = mask_losses([predicted], [masks])
        return text, targets, bce * len(masks), dice * len(masks), len(masks)

    def losses(self, samples, normalisation):
        parts = [self(sample) for sample in samples]
        if normalisation == "micro_batch":  # each micro-batch's means, all alike
            ce = sum(p[0] / p[1] for p in parts) / len(parts)
            bce, dice = (sum(p[k] / max(1, p[4]) for p in parts) / len(parts) for k in (2, 3))
        else:
            ce = sum(p[0] for p in parts) / sum(p[1] for p in parts)
            bce, dice = (sum(p[k] for p in parts) / sum(p[4] for p in parts) for k in (2, 3))
        return {name: WEIGHTS[name] * value for name, value in
                {"ce_loss": ce, "mask_bce_loss": bce, "mask_dice_loss": dice}.items()}


def rate_at(step):
    """DeepSpeed's WarmupDecayLR, linear; it counts the steps done, less one."""
    done = max(0, step - 2)
    return RATE * (done / WARMUP if done < WARMUP else max(0, (STEPS - done) / (STEPS - WARMUP)))


def train_reference(model, trained, samples, normalisation):
    optimizer = torch.optim.AdamW(trained, lr=0, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0)
    curve = []
    for step in range(1, STEPS + 1):
        optimizer.param_groups[0]["lr"] = rate_at(step)
        losses = model.losses(samples, normalisation)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        norm = torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        line = {name: value.item() for name, value in losses.items()}
        line["mask_loss"] = line["mask_bce_loss"] + line["mask_dice_loss"]
        curve.append(line | {"loss": line["ce_loss"] + line["mask_loss"], "grad_norm": norm.item()})
    return curve


def write_model(root, model, config):
    folder = root / "model"
    (folder / "clip").mkdir(parents=True)
    for name in ("tokenizer.model", "tokenizer_config.json", "added_tokens.json"):
        shutil.copy(SOURCE / "launch/toy/lisa" / name, folder / name)
    (folder / "clip/config.json").write_text(json.dumps(CLIP | {"model_type": "clip_vision_model"}))
    CLIPImageProcessor(size={"shortest_edge": CLIP["image_size"]}, crop_size=CLIP["image_size"]).save_pretrained(
        folder / "clip")
    (folder / "config.json").write_text(json.dumps(config))
    save_file({n: p.detach().clone().contiguous() for n, p in model.weights().items()}, folder / "model.safetensors")


def sam_pixels(picture):
    """ResizeLongestSide, normalised, padded on the right and below."""
    side = SAM["image_size"]
    scale = side / max(picture.size)
    width, height = (int(n * scale + 0.5) for n in picture.size)
    pixels = torch.from_numpy(np.array(picture.resize((width, height), Image.BILINEAR))).permute(2, 0, 1).float()
    mean, std = (torch.tensor(v)[:, None, None] for v in ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375]))
    return torch.nn.functional.pad((pixels - mean) / std, (0, side - width, 0, side - height))[None], (height, width)


def read_samples(root):
    processor = CLIPImageProcessor.from_pretrained(root / "model/clip")
    samples = []
    for path in sorted((root / "shards").glob("train-*.h5")):
        with h5py.File(path) as file:
            def row(group, i):
                offsets = file[group]["offsets"]
                return file[group]["values"][offsets[i] : offsets[i + 1]]

            for i, image in enumerate(file["samples/image"][:]):
                picture = Image.open(io.BytesIO(row("images/bytes", image).tobytes())).convert("RGB")
                pixels, resized = sam_pixels(picture)
                first, last = file["samples/conversation_offsets"][i : i + 2]
                conversations = [tuple(torch.tensor(row(f"conversations/{part}", c)).long() for part in ("ids", "labels"))
                                 for c in range(first, last)]
                first, last = file["samples/target_offsets"][i : i + 2]
                size = [picture.size[1], picture.size[0]]
                masks = [coco.decode({"size": size, "counts": row("masks/counts", m).tobytes()})
                         for m in file["targets/mask"][first:last]]
                samples.append({"sam": pixels, "resized": resized, "conversations": conversations,
                                "clip": processor(picture, return_tensors="pt")["pixel_values"],
                                "masks": torch.tensor(np.array(masks)).float().reshape(-1, *size),
                                "seg": int(file.attrs["seg_token_id"])})
    return samples


def train(root, name, ranks, *flags):
    tessera(ranks, "train", "--version", root / "model", "--shards", root / "shards", "--group_by_modality_length",
            "--batch_size", 1, "--global_batch_size", IMAGES, "--lora_r", 4, "--lora_alpha", 8, "--lora_dropout", 0,
            "--warmup_steps", WARMUP, "--max_steps", STEPS, "--export_merged", "false", "--log_base_dir", root / "runs",
            "--exp_name", name, "--precision", "fp32", "--workers", 1, *flags)
    folder = root / "runs" / name
    return folder, [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def compare(got, want, what):
    assert len(got) == len(want) == STEPS
    worst = {}
    for ours, theirs in zip(got, want):
        for key, value in theirs.items():
            worst[key] = max(worst.get(key, 0.0), abs(ours[key] - value) / abs(value))
    for key in WEIGHTS:
        assert abs(want[-1][key] - want[0][key]) > 1e-3 * want[0][key], (what, key, "nothing was learned")
    print(f"{what}:", ", ".join(f"{key} {want[0][key]:.4f} -> {want[-1][key]:.4f}" for key in WEIGHTS), "; at most",
          ", ".join(f"{key} {value:.1e}" for key, value in worst.items()), "from the reference")
    assert max(value for key, value in worst.items() if key != "grad_norm") < 1e-4 and worst["grad_norm"] < 1e-3, worst


def dropout_everywhere(root):
    """The dropout of adapters in every part of the model is drawn by sample, so it is the same on any number of ranks."""
    parts = ".*(q_proj|fc1|mlp.lin1|attn.qkv|mm_projector|text_hidden_fcs.0.0|hypernetworks_mlps.0.layers.0|lm_head)"
    curves = {}
    for ranks, dropout in ((1, 0), (1, 0.3), (3, 0.3)):
        _, lines = train(root, f"dropout_{ranks}_{dropout}", ranks, "--lr", RATE, "--target_modules", parts,
                         "--lora_dropout", dropout, "--max_steps", 3, "--warmup_steps", 0)
        curves[ranks, dropout] = [(line["loss"], line["mask_loss"], line["grad_norm"]) for line in lines]
    assert curves[1, 0.3] == curves[3, 0.3] != curves[1, 0], curves


def main(root):
    toy = json.loads((SOURCE / "launch/toy/lisa/config.json").read_text())
    config = LLAMA | {"vocab_size": toy["vocab_size"], "model_type": "llava", "architectures": ["LISAForCausalLM"],
                      "mm_vision_tower": "clip", "mm_hidden_size": CLIP["hidden_size"], "mm_vision_select_layer": -2,
                      "mm_vision_select_feature": "patch", "mm_projector_type": "linear", "mm_use_im_start_end": True,
                      "out_dim": SAM["prompt_embed_dim"], "train_mask_decoder": True, "sam_config": SAM | {"norm_eps": 1e-5}}
    write_model(root, Lisa(toy["vocab_size"]), config)
    subprocess.run([sys.executable, SOURCE / "launch/make_scenes.py", "--out", root / "scenes", "--size", "56", "--train",
                    str(IMAGES), "--train_describe", "2", "--val", "1"], check=True, capture_output=True)
    tessera(1, "prepare", "--version", root / "model", "--dataset_dir", root / "scenes", "--dataset", "sem_seg",
            "--sem_seg_data", "cocostuff", "--draws", 1, "--val_dataset", "", "--output_dir", root / "shards")
    samples = read_samples(root)
    assert len(samples) == IMAGES and sum(len(s["masks"]) for s in samples) > IMAGES, [len(s["masks"]) for s in samples]
    for normalisation in ("micro_batch", "global"):
        flags = ["--lr", RATE, "--loss_normalization", normalisation]
        still, _ = train(root, f"still_{normalisation}", 1, *flags, "--lr", 0, "--max_steps", 1)
        model = Lisa(toy["vocab_size"])
        trained = model.adapt(load_file(still / "adapter" / "adapter_model.safetensors"))
        want = train_reference(model, trained, samples, normalisation)
        for ranks in (1, 3):
            _, got = train(root, f"{normalisation}_{ranks}", ranks, *flags)
            compare(got, want, f"normalised by {normalisation}, {ranks} ranks")
    dropout_everywhere(root)


with tempfile.TemporaryDirectory() as name:
    main(pathlib.Path(name))
print("ok")
