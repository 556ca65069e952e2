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


def splice(embed, features, ids, labels, mask, limit=10**9, left=False):
    """LLaVA's: features, [T,d] for each image, in the places of -200, one image more for each row without any; rows are
    cut to `limit` and padded on one side. Gives embeddings [B,L,d], labels and mask [B,L]."""
    rows, targets, image = [], [], 0
    for c in range(ids.shape[0]):
        own, own_labels = ids[c][mask[c]], labels[c][mask[c]]
        parts, part_labels, begin = [], [], 0
        slots = (own == -200).nonzero().flatten().tolist()
        for slot in slots:
            parts += [embed(own[begin:slot]), features[image]]
            part_labels += [own_labels[begin:slot], torch.full((len(features[image]),), -100)]
            image, begin = image + 1, slot + 1
        if not slots:
            image += 1
        rows.append(torch.cat(parts + [embed(own[begin:])])[:limit])
        targets.append(torch.cat(part_labels + [own_labels[begin:]])[:limit])
    longest = max(len(r) for r in rows)

    def pad(row, value):
        missing = torch.full((longest - len(row), *row.shape[1:]), value, dtype=row.dtype)
        return torch.cat([missing, row] if left else [row, missing])
    return (torch.stack([pad(r, 0.0) for r in rows]), torch.stack([pad(t, -100) for t in targets]),
            torch.stack([pad(torch.ones(len(r), dtype=torch.long), 0) for r in rows]))


def with_gradients(loss, weights):
    loss.backward()
    return {f"grad.{n}": p.grad for n, p in weights.items() if p.grad is not None}


def describe(out, loss):
    hidden = out.hidden_states
    return {"logits": out.logits, "loss": loss, "last_hidden_state": hidden[-1]} | {
        f"hidden_states.{i}": h for i, h in enumerate(hidden)}


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
