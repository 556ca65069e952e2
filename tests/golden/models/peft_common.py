"""Shared by the golden scripts of PEFT's adapters.

Pinned: torch 2.11.0, transformers 4.57.6, peft 0.18.1, safetensors 0.7.0; Python 3.11, CPU, fp32.
A case is a base model's folder (common.py) with PEFT's own adapter folder `adapter` beside the weights. Gradients have
the names of adapter_model.safetensors; `merged.*` are tensors after PEFT merged the adapter. Where steps were run,
`steps.safetensors` holds the losses of torch's AdamW (OPTIMISER) from that adapter and what trained after them.
"""
import json

import torch
from common import randomise, write_case
from safetensors.torch import save_file

OPTIMISER = dict(lr=0.02, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0)
SMALL = dict(vocab_size=29, hidden_size=16, intermediate_size=20, num_hidden_layers=2, num_attention_heads=2,
             num_key_value_heads=2, rms_norm_eps=1e-6, max_position_embeddings=64, tie_word_embeddings=False)


def base_model(config_class, model_class, sizes, seed):
    """The base with random weights, its config.json and a copy of its weights."""
    torch.manual_seed(seed)
    config = config_class(**sizes, attn_implementation="eager")
    base = model_class(config)
    randomise(base, 0.2, seed)
    settings = config.to_diff_dict() | sizes | {"model_type": config.model_type, "dtype": "float32"}
    return base, settings, {n: p.detach().clone() for n, p in base.named_parameters()}


def text_inputs(vocab_size, length, padded):
    ids = torch.randint(0, vocab_size, (2, length))
    mask = torch.ones_like(ids)
    mask[1, -padded:] = 0
    return {"input_ids": ids, "attention_mask": mask, "labels": torch.where(mask == 1, ids, -100)}


def disturb(model, seed, change):
    """`change(name, parameter, noise)` for every parameter, noise normal and of its shape, in the order of the names."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for n, p in sorted(model.named_parameters(), key=lambda item: item[0]):
            of_bias = n.endswith("bias") and p.requires_grad
            if "lora_" in n or "modules_to_save" in n or "prompt_encoder" in n or of_bias:
                change(n, p, torch.randn(p.shape, generator=generator))


def file_name(name):
    """PEFT's name in adapter_model.safetensors of a parameter of the wrapped model."""
    if name.endswith("lora_magnitude_vector.default.weight"):
        return name.removesuffix(".default.weight")
    if not name.endswith(".bias"):  # which PEFT saves as it is named
        name = name.replace(".base_layer.", ".")
    return name.replace(".modules_to_save.default.", ".").replace(".default", "")


def trained(model):
    return {file_name(n): p for n, p in model.named_parameters() if p.requires_grad}


def save_adapter(model, folder):
    model.peft_config["default"].base_model_name_or_path = ""
    model.save_pretrained(folder)
    (folder / "README.md").unlink()
    path = folder / "adapter_config.json"
    saved = json.loads(path.read_text())
    if isinstance(saved.get("target_modules"), list):
        saved["target_modules"].sort()  # a set in PEFT
    path.write_text(json.dumps(saved, indent=2, sort_keys=True) + "\n")


def run_steps(model, inputs, count, after_update=lambda step: None):
    """Losses of `count` steps of AdamW; `after_update(step)`, from 1, still sees the gradients."""
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], **OPTIMISER)
    losses = []
    for step in range(1, count + 1):
        optimiser.zero_grad()
        loss = model(**inputs).loss
        losses.append(loss.detach())
        loss.backward()
        optimiser.step()
        after_update(step)
    return torch.stack(losses)


def save_steps(losses, after, folder):
    save_file({"losses": losses} | {n: t.contiguous() for n, t in after.items()}, folder / "steps.safetensors")


def write_adapter_case(name, settings, weights, inputs, expected, model, merges=True):
    """The case, its adapter as PEFT saves it, and what it merges to."""
    folder = write_case(name, settings, weights, inputs, expected)
    save_adapter(model, folder / "adapter")
    if merges:
        merged = model.merge_and_unload()
        expected = expected | {f"merged.{n}": p for n, p in merged.named_parameters()}
        write_case(name, settings, weights, inputs, expected)
    return folder
