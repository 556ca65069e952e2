"""Names and shapes of all tensors of SAM ViT-B, ViT-L and ViT-H as facebook's package (segment-anything 1.0) and
transformers 4.57.6 list them, in data/sam_names.json. See common.py for the other pinned versions.

The file holds, for each package, `shared` (the same in all three) and, per variant, `own` and `blocks`: lists of what
differs, blocks of equal content once with the numbers of those that have it and `#` for the number. Expanding it gives
the package's state dict back, which is checked here.
"""
import json
import re

import torch
from common import DATA
from segment_anything import sam_model_registry
from transformers import SamConfig, SamModel, SamVisionConfig

BLOCK = re.compile(r"(image_encoder\.blocks|vision_encoder\.layers)\.(\d+)\.")
SIZES = {"vit_b": (768, 12, 12, [2, 5, 8, 11]), "vit_l": (1024, 24, 16, [5, 11, 17, 23]),
         "vit_h": (1280, 32, 16, [7, 15, 23, 31])}


def of_transformers(variant):
    width, depth, heads, spread = SIZES[variant]
    vision = SamVisionConfig(hidden_size=width, num_hidden_layers=depth, num_attention_heads=heads,
                             global_attn_indexes=spread, mlp_dim=4 * width)
    return SamModel(SamConfig(vision_config=vision))


def listed(model):
    """Parameters and buffers as a file holds them: transformers saves tied tensors once."""
    tied = set(getattr(model, "_tied_weights_keys", None) or [])
    return {n: list(t.shape) for n, t in model.state_dict().items() if n not in tied}


def compact(every):
    shared = {n: s for n, s in every["vit_b"].items() if all(e.get(n) == s for e in every.values()) and not BLOCK.match(n)}
    out = {"shared": shared}
    for variant, names in every.items():
        own = {n: s for n, s in names.items() if n not in shared and not BLOCK.match(n)}
        blocks = {}
        for name, shape in names.items():
            if found := BLOCK.match(name):
                blocks.setdefault(int(found[2]), {})[BLOCK.sub(r"\1.#.", name)] = shape
        kinds = []
        for index, content in sorted(blocks.items()):
            for kind in kinds:
                if kind["tensors"] == content:
                    kind["at"].append(index)
                    break
            else:
                kinds.append({"at": [index], "tensors": content})
        out[variant] = {"own": own, "blocks": kinds}
        back = shared | own | {n.replace("#", str(i)): s for k in kinds for i in k["at"] for n, s in k["tensors"].items()}
        assert back == names
    return out


with torch.device("meta"):
    lists = {"facebook": compact({v: listed(sam_model_registry[v]()) for v in SIZES}),
             "transformers": compact({v: listed(of_transformers(v)) for v in SIZES})}
text = json.dumps(lists, indent=0)
text = re.sub(r"\[\n([\d,\n]*)\n\]", lambda m: "[" + m[1].replace("\n", " ") + "]", text)
(DATA / "sam_names.json").write_text(text + "\n")
print({k: [sum(1 for _ in v["shared"])] + [len(v[x]["blocks"]) for x in SIZES] for k, v in lists.items()})
