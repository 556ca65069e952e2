#!/usr/bin/env python3
"""Open what a run left in the programs it is written for: PEFT the adapter, transformers the merged language model,
TensorBoard the events. usage: check_exports.py RUN_FOLDER

Both ways must agree: the adapter on the base weights (as `PeftModel` applies it) and the merged folder give the same
logits. The run's base has no weights on disk (it was drawn), so the base is rebuilt as merged minus what the adapter adds.
"""
import json
import sys
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import LlamaConfig, LlamaForCausalLM

run = Path(sys.argv[1])

# --- transformers opens the merged language model ---
merged = load_file(run / "merged" / "model.safetensors")
config = json.loads((run / "merged" / "config.json").read_text())
llama = LlamaConfig(**{k: config[k] for k in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
                                              "num_attention_heads", "num_key_value_heads", "rms_norm_eps", "rope_theta",
                                              "max_position_embeddings", "tie_word_embeddings")})
language = {k: v for k, v in merged.items()
            if k.startswith(("model.embed_tokens", "model.layers", "model.norm", "lm_head"))}


def language_model(weights: dict) -> LlamaForCausalLM:
    model = LlamaForCausalLM(llama).eval()
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected and all("inv_freq" in name for name in missing), (missing, unexpected)
    return model


ids = torch.arange(3, 40).remainder(config["vocab_size"])[None]
with torch.no_grad():
    from_merged = language_model(language)(ids).logits
assert torch.isfinite(from_merged).all()

# --- PEFT opens the adapter, and base + adapter gives what the merged model gives ---
adapter = load_file(run / "adapter" / "adapter_model.safetensors")
lora = LoraConfig.from_pretrained(str(run / "adapter"))
scaling = lora.lora_alpha / lora.r
base = dict(language)
for name, b in adapter.items():
    if ".lora_B." not in name:
        continue
    weight = name.removeprefix("base_model.model.").replace(".lora_B.weight", ".weight")
    base[weight] = base[weight] - scaling * b @ adapter[name.replace(".lora_B.", ".lora_A.")]
assert any(b.abs().max() > 0 for n, b in adapter.items() if ".lora_B." in n), "the adapter learned nothing"
tuned = PeftModel.from_pretrained(language_model(base), str(run / "adapter")).eval()
with torch.no_grad():
    from_adapter = tuned(ids).logits
torch.testing.assert_close(from_adapter, from_merged, rtol=1e-4, atol=1e-5)

# --- the other trained weights are there, whole ---
others = torch.load(run / "adapter" / "non_lora_trainables.bin", map_location="cpu", weights_only=True)
assert all(n.startswith("base_model.model.") for n in others)  # as LLaVA's trainer writes it
others = {n.removeprefix("base_model.model."): v for n, v in others.items()}
assert "lm_head.weight" in others and any("mask_decoder" in n for n in others) and any("text_hidden_fcs" in n for n in others)
for name, value in others.items():
    torch.testing.assert_close(value, merged[name])

# --- TensorBoard reads the events ---
events = EventAccumulator(str(run))
events.Reload()
losses = events.Scalars("train/loss")
lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
steps = [line for line in lines if "loss" in line]
assert [e.step for e in losses] == [line["step"] for line in steps]
assert all(abs(e.value - line["loss"]) < 1e-4 * abs(line["loss"]) for e, line in zip(losses, steps))
assert events.Scalars("val/giou"), "no validation in the events"
print("adapter, merged model and events open elsewhere and agree")
