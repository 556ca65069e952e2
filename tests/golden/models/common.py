"""Shared by the golden scripts of this folder.

Pinned: torch 2.11.0, transformers 4.51.3, peft 0.15.2, sentencepiece 0.2.1, safetensors 0.8.0; Python 3.11, CPU, fp32.
Each case is a model folder in the form `tessera forward` reads (config.json, model.safetensors) with inputs.safetensors
and expected.safetensors beside it. The comparison is rtol 1e-4, atol 1e-5.
"""
import json
import pathlib

import torch
from safetensors.torch import save_file

DATA = pathlib.Path(__file__).parent / "data"


def randomise(module, std, seed):
    """Every weight normal, norms' weights around one: no symmetry hides a mistake."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in sorted(module.named_parameters(), key=lambda item: item[0]):
            p.copy_(torch.randn(p.shape, generator=generator) * std)
            if p.dim() == 1 and name.endswith("weight") and "norm" in name:
                p.add_(1.0)


def write_case(name, config, weights, inputs, expected):
    folder = DATA / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
    def whole(tensors):
        return {k: v.detach().clone().contiguous() for k, v in tensors.items()}
    save_file(whole(weights), folder / "model.safetensors")
    save_file(whole(inputs), folder / "inputs.safetensors")
    save_file(whole(expected), folder / "expected.safetensors")
    return folder
