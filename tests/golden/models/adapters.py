"""Goldens of the LoRA family by PEFT: patterns of targets, ranks and alphas, layer indices, DoRA, modules_to_save.

Pinned: torch 2.11.0, transformers 4.57.6, peft 0.18.1, safetensors 0.8.0; Python 3.11, CPU, fp32.
The files of a case are those of lora.py, with gradients of the adapter's own tensors alone, and `steps.safetensors`: the
losses of a few steps of torch's AdamW (settings below) from that adapter, and the adapter's tensors after them.
"""
import json

import torch
from common import DATA, randomise, write_case
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

STEPS = 4
OPTIMISER = dict(lr=0.02, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0)
SMALL = dict(vocab_size=29, hidden_size=16, intermediate_size=20, num_hidden_layers=2, num_attention_heads=2,
             num_key_value_heads=2, rms_norm_eps=1e-6, max_position_embeddings=64, tie_word_embeddings=False)

CASES = {
    "lora_regex_patterns": (
        LlamaConfig, LlamaForCausalLM,
        dict(r=3, lora_alpha=7, use_rslora=True, target_modules=r".*\.(self_attn\.[qk]_proj|mlp\.down_proj)",
             rank_pattern={"k_proj": 2, r"model\.layers\.0\.mlp\.down_proj": 5},
             alpha_pattern={r"^model\.layers\.1\.self_attn\.q_proj": 9, "down_proj": 3})),
    "lora_layer_indices": (
        LlamaConfig, LlamaForCausalLM,
        dict(r=4, lora_alpha=6, init_lora_weights="gaussian", target_modules=["q_proj", "up_proj", "o_proj", "lm_head"],
             exclude_modules=["layers.1.mlp.up_proj"], layers_to_transform=[1], layers_pattern=["layers"])),
    "lora_modules_to_save": (
        LlamaConfig, LlamaForCausalLM,
        dict(r=2, lora_alpha=3, target_modules=["v_proj", "gate_proj"],
             modules_to_save=["lm_head", "embed_tokens", "model.norm"])),
    "dora_all_linear": (
        Qwen2Config, Qwen2ForCausalLM, dict(r=3, lora_alpha=5, use_dora=True, target_modules="all-linear")),
    "dora_rslora_some": (
        LlamaConfig, LlamaForCausalLM,
        dict(r=4, lora_alpha=5, use_dora=True, use_rslora=True, target_modules=["q_proj", "down_proj"],
             rank_pattern={"q_proj": 2})),
}


def file_name(name):
    """PEFT's name in adapter_model.safetensors of a parameter of the wrapped model."""
    if name.endswith("lora_magnitude_vector.default.weight"):
        return name.removesuffix(".default.weight")
    return name.replace(".modules_to_save.default.", ".").replace(".default.", ".")


def trained(model):
    return {file_name(n): p for n, p in model.named_parameters() if p.requires_grad}


def make(seed, name, config_class, model_class, lora):
    torch.manual_seed(80 + seed)
    config = config_class(**SMALL, attn_implementation="eager")
    base = model_class(config)
    randomise(base, 0.2, 80 + seed)
    weights = {n: p.detach().clone() for n, p in base.named_parameters()}
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **lora))
    generator = torch.Generator().manual_seed(90 + seed)
    with torch.no_grad():
        for n, p in sorted(model.named_parameters(), key=lambda item: item[0]):
            if "lora_magnitude" in n:
                p.mul_(1 + 0.2 * torch.randn(p.shape, generator=generator))
            elif "lora_" in n or "modules_to_save" in n:
                p.add_(torch.randn(p.shape, generator=generator) * 0.2)
    ids = torch.randint(0, config.vocab_size, (2, 8 + seed))
    mask = torch.ones_like(ids)
    mask[1, -2:] = 0
    inputs = {"input_ids": ids, "attention_mask": mask, "labels": torch.where(mask == 1, ids, -100)}
    out = model(**inputs)
    out.loss.backward()
    expected = {"logits": out.logits, "loss": out.loss}
    expected |= {"grad." + n: p.grad for n, p in trained(model).items()}
    settings = config.to_diff_dict() | SMALL | {"model_type": config.model_type, "dtype": "float32"}
    folder = write_case(name, settings, weights, inputs, expected)
    model.peft_config["default"].base_model_name_or_path = ""
    model.save_pretrained(folder / "adapter")
    (folder / "adapter" / "README.md").unlink()
    saved = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    if isinstance(saved["target_modules"], list):
        saved["target_modules"].sort()  # a set in PEFT
    (folder / "adapter" / "adapter_config.json").write_text(json.dumps(saved, indent=2, sort_keys=True) + "\n")

    start = {n: p.detach().clone() for n, p in trained(model).items()}
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], **OPTIMISER)
    losses = []
    for _ in range(STEPS):
        optimiser.zero_grad()
        loss = model(**inputs).loss
        losses.append(loss.detach())
        loss.backward()
        optimiser.step()
    after = {n: p.detach().clone().contiguous() for n, p in trained(model).items()}
    # PEFT saves the vocabulary's weights too where one of its layers is a target.
    assert after.keys() <= get_peft_model_state_dict(model).keys(), name
    save_file({"losses": torch.stack(losses)} | after, folder / "steps.safetensors")

    with torch.no_grad():
        for n, p in trained(model).items():
            p.copy_(start[n])
    merged = model.merge_and_unload()
    expected |= {f"merged.{n}": p for n, p in merged.named_parameters()}
    write_case(name, settings, weights, inputs, expected)


for seed, (name, case) in enumerate(CASES.items()):
    make(seed, name, *case)
print(*sorted(p.name for p in DATA.iterdir() if p.name in CASES))
