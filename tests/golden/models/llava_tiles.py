"""Goldens of LLaVA with pictures in tiles (anyres). transformers' form by LlavaNextForConditionalGeneration; the original
form by the reference's way of placing tiles (haotian-liu/LLaVA llava/model/llava_arch.py, llava/mm_utils.py) written anew
over transformers' language models and CLIPVisionModel. Made with transformers 4.57.6, torch 2.11.0, safetensors 0.8.0;
see common.py.

Pictures are wider and taller than their grid, so that padding is cut above and below or left and right, or of one tile;
one is a row's without any. The places of the grid are told as a list and as a text.
"""
import ast
import json

import torch
import torch.nn.functional as F
from common import describe, randomise, splice, with_gradients, write_case
from safetensors.torch import save_file
from torch import nn
from transformers import (CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM, LlavaNextConfig,
                          LlavaNextForConditionalGeneration, MptConfig, MptForCausalLM, Qwen2Config, Qwen2ForCausalLM)

CLIP = dict(hidden_size=12, intermediate_size=20, num_hidden_layers=3, num_attention_heads=2, image_size=14,
            patch_size=7, hidden_act="quick_gelu", layer_norm_eps=1e-5)
THREE = dict(CLIP, hidden_size=9, intermediate_size=13, num_attention_heads=3, image_size=17, patch_size=5,
             num_hidden_layers=2)
LLAMA = dict(vocab_size=39, hidden_size=16, intermediate_size=28, num_hidden_layers=2, num_attention_heads=2,
             num_key_value_heads=1, rms_norm_eps=1e-5, max_position_embeddings=256)
QWEN2 = dict(vocab_size=45, hidden_size=18, intermediate_size=22, num_hidden_layers=1, num_attention_heads=3,
             num_key_value_heads=3, rms_norm_eps=1e-6, max_position_embeddings=256, tie_word_embeddings=True)
MPT = dict(vocab_size=37, d_model=15, n_heads=5, n_layers=2, max_seq_len=128, attn_config={"alibi_bias_max": 4})
FAMILIES = {"llama": (LlamaConfig, LlamaForCausalLM, LLAMA), "qwen2": (Qwen2Config, Qwen2ForCausalLM, QWEN2),
            "mpt": (MptConfig, MptForCausalLM, MPT)}


def eager(config):
    config._attn_implementation = "eager"
    return config


# --- the original form ---
def best_grid(size, places):
    """Of [width, height] places the one that keeps most of the picture, then the one that wastes least."""
    def worth(place):
        scale = min(place[0] / size[0], place[1] / size[1])
        kept = min(int(size[0] * scale) * int(size[1] * scale), size[0] * size[1])
        return kept, -(place[0] * place[1] - kept)
    return max(places, key=worth)


def window(whole, wanted, other, other_wanted):
    """What is left of a side `whole` for a picture's side `wanted`, whose other side fills `other`."""
    padding = (whole - int(wanted * (other / other_wanted))) // 2
    return slice(padding, whole - padding)


def scaled(grid, most):
    """anyres_max_N (LLaVA-VL/LLaVA-NeXT): a grid [h,w,d] of clearly more than `most` features becomes one of about those."""
    height, width = grid.shape[:2]
    times = (height * width / most) ** 0.5 if most else 1
    if times <= 1.1:
        return grid
    small = F.interpolate(grid.permute(2, 0, 1)[None], [int(height // times), int(width // times)], mode="bilinear")
    return small[0].permute(1, 2, 0)


def merged(tiles, size, places, pixels, kind, newline, most):
    """Features [T,P,d] of a picture of `size` (width, height) in the order in which they stand in the text."""
    if kind == "flat":
        return tiles.flatten(0, 1)
    ends = [newline[None]] if newline is not None else []
    if len(tiles) == 1:
        return torch.cat([tiles[0], *ends])
    columns, rows = (along // pixels for along in best_grid(size, places))
    side = round(tiles.shape[1] ** 0.5)
    squares = tiles[1:].view(rows, columns, side, side, -1)
    whole = torch.cat([torch.cat(list(row), dim=1) for row in squares])
    if kind == "spatial_unpad":
        height, width = whole.shape[:2]
        if size[0] / size[1] > width / height:
            whole = whole[window(height, size[1], width, size[0])]
        else:
            whole = whole[:, window(width, size[0], height, size[1])]
        whole = scaled(whole, most * tiles.shape[1])
        whole = torch.cat([whole, newline.expand(len(whole), 1, -1)], dim=1)
    return torch.cat([tiles[0], whole.flatten(0, 1)])


ORIGINAL = {
    # Placeholders of each row, its length, the pictures' sizes (width, height) and those that come in one tile.
    "llava_tiles_unpad": dict(
        family="llama", clip=CLIP, places=[[2, 5], [], [1]], lengths=[9, 11, 6],
        sizes=[(31, 9), (10, 40), (14, 14), (33, 27)], single=[2],
        settings={"image_aspect_ratio": "anyres", "mm_patch_merge_type": "spatial_unpad",
                  "image_grid_pinpoints": [[28, 14], [14, 42], [42, 28]]}),
    "llava_tiles_unpad_three": dict(
        family="qwen2", clip=THREE, places=[[0], [3, 4, 6]], lengths=[7, 10],
        sizes=[(100, 37), (41, 90), (20, 20), (50, 51)], single=[2],
        settings={"image_aspect_ratio": "anyres", "mm_patch_merge_type": "spatial_unpad",
                  "tokenizer_padding_side": "left", "tokenizer_model_max_length": 71,
                  "image_grid_pinpoints": "[(34, 17), (17, 51), (34, 34)]"}),
    "llava_tiles_spatial": dict(
        family="qwen2", clip=CLIP, places=[[4], [2]], lengths=[8, 7], sizes=[(15, 60), (55, 15)], single=[],
        settings={"image_aspect_ratio": "anyres", "mm_patch_merge_type": "spatial",
                  "image_grid_pinpoints": "[[14, 28], [42, 14]]"}),
    "llava_tiles_flat": dict(
        family="mpt", clip=CLIP, places=[[], [1, 3]], lengths=[12, 6], sizes=[(9, 9), (30, 20), (20, 70)], single=[0],
        settings={"image_aspect_ratio": "anyres_max_4", "mm_patch_merge_type": "flat",
                  "mm_vision_select_feature": "cls_patch", "image_grid_pinpoints": [[14, 14], [28, 14], [14, 42]]}),
    "llava_tiles_unpad_mpt": dict(
        family="mpt", clip=THREE, places=[[2], [0]], lengths=[5, 9], sizes=[(64, 17), (40, 39)], single=[],
        settings={"image_aspect_ratio": "anyres", "mm_patch_merge_type": "spatial_unpad",
                  "image_grid_pinpoints": "[[51, 17], [17, 34], [34, 34]]"}),
    "llava_tiles_unpad_max": dict(  # scaled down by 1.2 and by 1.5, as it was, one tile
        family="qwen2", clip=THREE, places=[[1, 3], [], [2, 4]], lengths=[8, 4, 7],
        sizes=[(120, 100), (34, 90), (20, 20), (70, 33), (16, 16)], single=[2, 4],
        settings={"image_aspect_ratio": "anyres_max_3", "mm_patch_merge_type": "spatial_unpad",
                  "image_grid_pinpoints": "(1x1),...,(3x3)"}),
}

for seed, (name, case) in enumerate(ORIGINAL.items()):
    torch.manual_seed(700 + seed)
    config_class, model_class, settings = FAMILIES[case["family"]]
    language = model_class(eager(config_class(**settings))).eval()
    clip = CLIPVisionModel(eager(CLIPVisionConfig(**case["clip"]))).eval()
    width = language.get_input_embeddings().weight.shape[1]
    projector = nn.Sequential(nn.Linear(case["clip"]["hidden_size"], width), nn.GELU(), nn.Linear(width, width))
    for number, module in enumerate((language, clip, projector)):
        randomise(module, 0.22, 700 + 10 * seed + number)
    kind, pixels = case["settings"]["mm_patch_merge_type"], case["clip"]["image_size"]
    newline = nn.Parameter(torch.randn(width) * 0.3) if "unpad" in kind else None
    pinpoints = case["settings"]["image_grid_pinpoints"]
    if isinstance(pinpoints, str) and "x" in pinpoints:
        pinpoints = [(w * pixels, h * pixels) for w in range(1, 4) for h in range(1, 4)]
    pinpoints = ast.literal_eval(pinpoints) if isinstance(pinpoints, str) else pinpoints
    most = int(case["settings"]["image_aspect_ratio"].partition("_max_")[2] or 0)
    counts = [1 if i in case["single"] else 1 + (best_grid(size, pinpoints)[0] // pixels) *
              (best_grid(size, pinpoints)[1] // pixels) for i, size in enumerate(case["sizes"])]

    vocabulary, longest = settings["vocab_size"], max(case["lengths"])
    ids = torch.zeros(len(case["lengths"]), longest, dtype=torch.long)
    mask, labels = torch.zeros_like(ids, dtype=torch.bool), torch.full_like(ids, -100)
    for c, (length, places) in enumerate(zip(case["lengths"], case["places"])):
        ids[c, :length] = torch.randint(1, vocabulary, (length,))
        labels[c, 2:length] = ids[c, 2:length]
        for place in places:
            ids[c, place], labels[c, place] = -200, -100
        mask[c, :length] = True
    assert len(counts) == sum(max(1, len(places)) for places in case["places"])
    images = torch.randn(sum(counts), 3, pixels, pixels)
    selected = clip(images, output_hidden_states=True).hidden_states[-2]
    if case["settings"].get("mm_vision_select_feature", "patch") == "patch":
        selected = selected[:, 1:]
    tiles = projector(selected).split(counts)
    features = [merged(own, size, pinpoints, pixels, kind, newline, most) for own, size in zip(tiles, case["sizes"])]
    sequence, targets, long_mask = splice(language.get_input_embeddings(), features, ids, labels, mask,
                                          case["settings"].get("tokenizer_model_max_length", 10**9),
                                          case["settings"].get("tokenizer_padding_side") == "left")
    out = language(inputs_embeds=sequence, attention_mask=long_mask, output_hidden_states=True)
    loss = F.cross_entropy(out.logits[:, :-1].reshape(-1, vocabulary), targets[:, 1:].reshape(-1), ignore_index=-100)
    base = "transformer" if case["family"] == "mpt" else "model"
    tower = {f"{base}.vision_tower.vision_tower.{n}": p for n, p in clip.named_parameters()}
    weights = dict(language.named_parameters())
    weights |= {f"{base}.mm_projector.{n}": p for n, p in projector.named_parameters()}
    if newline is not None:
        weights[f"{base}.image_newline"] = newline
    expected = describe(out, loss) | {"image_features": torch.cat(features), "expanded_labels": targets,
                                      "expanded_attention_mask": long_mask} | with_gradients(loss, weights | tower)
    config = settings | case["settings"] | {
        "model_type": f"llava_{case['family']}", "mm_vision_tower": "clip", "mm_projector_type": "mlp2x_gelu",
        "mm_hidden_size": case["clip"]["hidden_size"], "mm_vision_select_layer": -2}
    sizes = torch.tensor([[height, wide] for wide, height in case["sizes"]])
    inputs = {"input_ids": ids, "attention_mask": mask.long(), "labels": labels, "images": images, "image_sizes": sizes}
    if case["single"]:
        inputs["image_tiles"] = torch.tensor(counts)
    folder = write_case(name, config, weights | tower, inputs, expected)
    (folder / "clip").mkdir(exist_ok=True)
    (folder / "clip" / "config.json").write_text(
        json.dumps(case["clip"] | {"model_type": "clip_vision_model"}, indent=1, sort_keys=True) + "\n")


# --- transformers' form ---
def names_of_files(name):
    """As published folders have them, before transformers 4.52 and since."""
    for new, old in (("model.language_model.", "language_model.model."), ("model.vision_tower.", "vision_tower."),
                     ("lm_head.", "language_model.lm_head."), ("model.multi_modal_projector.", "multi_modal_projector."),
                     ("model.image_newline", "image_newline")):
        if name.startswith(new):
            return old + name[len(new):]
    raise ValueError(name)


NEXT = {
    # Pictures of each row by height and width; pinpoints [height, width].
    "llava_next_llama": dict(family="llama", clip=CLIP, rows=[[(9, 31), (40, 10)], [], [(27, 33)]], left=True,
                             pinpoints=[[14, 28], [42, 14], [28, 42]], flat=False),
    "llava_next_qwen2_three": dict(family="qwen2", clip=THREE, rows=[[(37, 100)], [(90, 41), (29, 30), (51, 50)]],
                                   left=False, pinpoints=[[17, 34], [51, 17], [34, 34], [17, 17]], flat=True),
}
for seed, (name, case) in enumerate(NEXT.items()):
    torch.manual_seed(760 + seed)
    settings = FAMILIES[case["family"]][2]
    token = settings["vocab_size"] - 2
    config = eager(LlavaNextConfig(vision_config=dict(case["clip"], model_type="clip_vision_model"),
                                   text_config=dict(settings, model_type=case["family"]), image_token_index=token,
                                   image_grid_pinpoints=case["pinpoints"],
                                   tie_word_embeddings=settings.get("tie_word_embeddings", False)))
    model = LlavaNextForConditionalGeneration(config).eval()
    randomise(model, 0.22, 760 + seed)
    sizes = torch.tensor([size for row in case["rows"] for size in row])
    pixels = case["clip"]["image_size"]
    grids = [best_grid((w, h), [(b, a) for a, b in case["pinpoints"]]) for h, w in sizes.tolist()]
    counts = [1 + (w // pixels) * (h // pixels) for w, h in grids]
    tiles = torch.zeros(len(counts), max(counts), 3, pixels, pixels)
    for i, count in enumerate(counts):
        tiles[i, :count] = torch.randn(count, 3, pixels, pixels)
    with torch.no_grad():
        blocks = [len(block) for block in model.model.get_image_features(tiles, sizes)]
    rows, remaining = [], iter(blocks)
    for own in case["rows"]:
        row = torch.randint(1, token, (2,))
        for _ in own:
            row = torch.cat([row, torch.full((next(remaining),), token), torch.randint(1, token, (2,))])
        rows.append(torch.cat([row, torch.randint(1, token, (3 + len(own),))]))
    longest = max(len(r) for r in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for c, row in enumerate(rows):
        at = slice(longest - len(row), None) if case["left"] else slice(0, len(row))
        ids[c, at], mask[c, at] = row, 1
    labels = torch.where((mask == 1) & (ids != token), ids, -100)
    out = model(input_ids=ids, attention_mask=mask, pixel_values=tiles, image_sizes=sizes, labels=labels,
                output_hidden_states=True)
    named = {names_of_files(n): p for n, p in model.named_parameters()}
    expected = describe(out, out.loss) | {"image_features": out.image_hidden_states, "expanded_labels": labels,
                                          "expanded_attention_mask": mask} | with_gradients(out.loss, named)
    given = torch.cat([tiles[i, :count] for i, count in enumerate(counts)]) if case["flat"] else tiles
    write_case(name, config.to_diff_dict() | {"model_type": "llava_next"}, named,
               {"input_ids": ids, "attention_mask": mask, "labels": labels, "pixel_values": given,
                "image_sizes": sizes}, expected)
