"""Golden of training FastVLM in transformers' form: FastVlmForConditionalGeneration over timm's fastvit_mci3 with small
sizes, in fp32, batch norms on their running statistics, AdamW under a linear schedule; the stages of LLaVA's trainer
and one from an adapter that PEFT wrote. Made with transformers 5.0.0, timm 1.0.22, peft 0.18.1, torch 2.11.0.

    python fastvlm.py PATH/TO/tessera

The program makes the samples' token ids, nothing else. data/fastvlm has the model, the pictures, the adapter, every
step's loss and the names PEFT gives.
"""
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
import torch.nn.functional as F
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from PIL import Image
from safetensors.torch import load_file
from transformers import (CLIPImageProcessor, FastVlmConfig, FastVlmForConditionalGeneration,
                          get_linear_schedule_with_warmup)

transformers.utils.logging.disable_progress_bar()
HERE = pathlib.Path(__file__).parent
DATA = HERE / "data/fastvlm"
TOY = HERE.parents[2] / "launch/toy/lisa"
SIDE, TOKENS, IMAGE_TOKEN, STEPS = 70, 4, 649, 6
TOWER = dict(embed_dims=[2, 4, 8, 32, 32], layers=[1] * 5, mlp_ratios=[3, 2, 1.5, 1, 1], inference_mode=True)
LANGUAGE = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def make_model():
    torch.manual_seed(1)
    config = FastVlmConfig(
        vision_config=dict(architecture="fastvit_mci3", model_type="timm_wrapper", do_pooling=True, hidden_size=64,
                           model_args=TOWER),
        text_config=dict(model_type="qwen2", vocab_size=650, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
                         num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=256,
                         tie_word_embeddings=False),
        image_token_id=IMAGE_TOKEN, tie_word_embeddings=False)
    model = FastVlmForConditionalGeneration(config)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, value in sorted(model.state_dict().items()):
            if "num_batches" in name:
                continue
            noise = torch.randn(value.shape, generator=generator)
            if name.endswith("running_var"):
                value.copy_(0.4 + noise.abs())
            elif "layer_scale" in name:
                value.copy_(0.4 + 0.2 * noise)
            elif value.dim() == 1 and name.endswith("weight"):
                value.copy_(1 + 0.2 * noise)
            elif value.dim() >= 2 and "vision" in name:
                value.copy_(noise * value[0].numel() ** -0.5)
            else:
                value.copy_(0.2 * noise)
    model.save_pretrained(DATA)
    CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=SIDE, image_mean=[0.0] * 3,
                       image_std=[1.0] * 3).save_pretrained(DATA)


def make_chat():
    (DATA / "images").mkdir()
    records = []
    for number in range(6):
        record = {"id": str(number), "conversations": [
            {"from": "human", "value": ("<image>\n" if number != 2 else "") + "What is it?"},
            {"from": "gpt", "value": "It is a thing" + " of some kind" * (number % 4) + "."}]}
        if number != 2:  # one of text alone
            pixels = np.random.default_rng(number).integers(0, 255, (15 + 3 * number, 21, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(DATA / f"images/{number}.png")
            record["image"] = f"{number}.png"
        records.append(record)
    (DATA / "chat.json").write_text(json.dumps(records, indent=1))


def read_samples(program):
    with tempfile.TemporaryDirectory() as name:
        root = pathlib.Path(name)
        shutil.copytree(DATA, root / "model")
        for file in ("tokenizer.model", "tokenizer_config.json"):
            shutil.copy(TOY / file, root / "model" / file)
        subprocess.run([program, "prepare", "--dataset", "llava", "--data_path", DATA / "chat.json", "--image_folder",
                        DATA / "images", "--version", root / "model", "--conv_type", "v1", "--draws", "1", "--output_dir",
                        root / "shards", "--val_dataset", ""], check=True, env=dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1",
                                                                                   OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1"))
        processor = CLIPImageProcessor.from_pretrained(DATA)
        samples = []
        for path in sorted((root / "shards").glob("*.h5")):
            with h5py.File(path) as file:
                def row(group, i):
                    offsets = file[group]["offsets"]
                    return file[group]["values"][offsets[i]:offsets[i + 1]]

                for i, image in enumerate(file["samples/image"][:]):
                    first = file["samples/conversation_offsets"][i]
                    ids = torch.tensor(row("conversations/ids", first)).long()
                    labels = torch.tensor(row("conversations/labels", first)).long()
                    pixels = None
                    if image >= 0:
                        picture = Image.open(DATA / "images" / row("images/name", image).tobytes().decode())
                        pixels = processor(picture.convert("RGB"), return_tensors="pt")["pixel_values"]
                        at = int((ids == -200).nonzero())
                        ids = torch.cat([ids[:at], torch.full((TOKENS,), IMAGE_TOKEN), ids[at + 1:]])
                        labels = torch.cat([labels[:at], torch.full((TOKENS,), -100), labels[at + 1:]])
                    samples.append((ids, labels, pixels))
    return samples


def loss_of(model, samples):
    total, count = 0, 0
    for ids, labels, pixels in samples:
        given = {} if pixels is None else {"pixel_values": pixels}
        logits = model(input_ids=ids[None], **given).logits[0, :-1]
        total = total + F.cross_entropy(logits, labels[1:], ignore_index=-100, reduction="sum")
        count += int((labels[1:] != -100).sum())
    return total / count


def train(model, samples, trained, rate, tower_rate=None):
    """Without decay: biases, and norms of the tower; the reference's list has not Qwen2's."""
    groups = []
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(trained(name))
        if not trained(name):
            continue
        tower = "vision_tower" in name
        still = "bias" in name or (tower and "norm" in name)
        groups.append({"params": [parameter], "lr": tower_rate if tower and tower_rate else rate,
                       "weight_decay": 0.0 if still else 0.1})
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.999), eps=1e-8)
    schedule = get_linear_schedule_with_warmup(optimizer, 2, STEPS)
    losses = []
    for _ in range(STEPS):
        loss = loss_of(model, samples)
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def load():
    return FastVlmForConditionalGeneration.from_pretrained(DATA, attn_implementation="eager").eval()


def lora(targets):
    return LoraConfig(r=2, lora_alpha=5, lora_dropout=0.0, init_lora_weights=False, target_modules=targets,
                      modules_to_save=["multi_modal_projector"])


def saved_names(model):
    with tempfile.TemporaryDirectory() as name:
        model.save_pretrained(name)
        return sorted(load_file(pathlib.Path(name) / "adapter_model.safetensors"))


def main(program):
    shutil.rmtree(DATA, ignore_errors=True)
    DATA.mkdir(parents=True)
    make_model()
    make_chat()
    samples = read_samples(program)
    expected = {"rows": sorted(ids.tolist() for ids, _, _ in samples)}
    expected["projector"] = train(load(), samples, lambda n: "multi_modal_projector" in n, 1e-2)
    expected["frozen_tower"] = train(load(), samples, lambda n: "vision_tower" not in n, 5e-3)
    expected["trained_tower"] = train(load(), samples, lambda n: True, 5e-3, 3e-2)
    whole = r".*\.language_model\..*\.(" + "|".join(LANGUAGE) + ")"
    expected["language_names"] = saved_names(get_peft_model(load(), lora(whole)))
    torch.manual_seed(3)
    parts = r".*\.(q_proj|down_proj|token_mixer\.qkv|3\.blocks\.0\.token_mixer\.proj|mlp\.fc2|se\.fc1)"
    get_peft_model(load(), lora(parts)).save_pretrained(DATA / "adapter")
    saved = DATA / "adapter/adapter_config.json"
    saved.write_text(saved.read_text().replace(str(DATA), "fastvlm"))
    model = PeftModel.from_pretrained(load(), DATA / "adapter", is_trainable=True).eval()
    expected["adapter"] = train(model, samples, lambda n: "lora_" in n or "modules_to_save" in n, 1e-2)
    (DATA / "adapter/README.md").unlink(missing_ok=True)
    (DATA / "expected.json").write_text(json.dumps(expected, indent=1))
    for what in ("projector", "frozen_tower", "trained_tower", "adapter"):
        print(what, *(f"{loss:.4f}" for loss in expected[what]))


if __name__ == "__main__":
    main(sys.argv[1])
