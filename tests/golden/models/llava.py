"""LLaVA goldens. transformers' form by LlavaForConditionalGeneration; the original form by the reference's splice
(haotian-liu/LLaVA llava/model/llava_arch.py) written anew over transformers' language models and CLIPVisionModel. Made
with transformers 4.57.6, torch 2.11.0, safetensors 0.8.0; see common.py.

Rows have two images, one or none; some batches are padded on the left, one is cut to a length. The folders cover the
namings: LLaVA's own with the tower in a folder of its own, LLaVA's own on MPT with the tower inside, transformers'
files before 4.52 and its modules since. Each form on each language model has two sizes.

`python llava.py NAME…` makes only the cases named.
"""
import json
import sys

import torch
import torch.nn.functional as F
from common import describe, randomise, splice, with_gradients, write_case
from safetensors.torch import save_file
from torch import nn
from transformers import (CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM, LlavaConfig,
                          LlavaForConditionalGeneration, MptConfig, MptForCausalLM, Qwen2Config, Qwen2ForCausalLM)

CLIP = dict(hidden_size=12, intermediate_size=20, num_hidden_layers=3, num_attention_heads=2, image_size=14,
            patch_size=7, hidden_act="quick_gelu", layer_norm_eps=1e-5)
SMALL_CLIP = dict(CLIP, hidden_size=10, image_size=15, patch_size=5, num_hidden_layers=2)
LLAMA = dict(vocab_size=39, hidden_size=16, intermediate_size=28, num_hidden_layers=2, num_attention_heads=2,
             num_key_value_heads=1, rms_norm_eps=1e-5, max_position_embeddings=128)
QWEN2 = dict(vocab_size=45, hidden_size=24, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, rms_norm_eps=1e-6, max_position_embeddings=128, tie_word_embeddings=True)
MPT = dict(vocab_size=37, d_model=18, n_heads=3, n_layers=2, max_seq_len=64, attn_config={"clip_qkv": 0.9})
# The second sizes: odd numbers of heads, other depths, pixels beyond the last whole patch.
ODD_CLIP = dict(CLIP, hidden_size=9, intermediate_size=13, num_attention_heads=3, image_size=17)
ODD_LLAMA = dict(LLAMA, vocab_size=51, hidden_size=18, intermediate_size=22, num_hidden_layers=3,
                 num_attention_heads=3, num_key_value_heads=3, rope_theta=500.0)
ODD_QWEN2 = dict(QWEN2, vocab_size=53, hidden_size=30, intermediate_size=26, num_hidden_layers=1,
                 num_attention_heads=5, num_key_value_heads=1, tie_word_embeddings=False)
ODD_MPT = dict(vocab_size=41, d_model=15, n_heads=5, n_layers=3, max_seq_len=64,
               attn_config={"alibi_bias_max": 4, "softmax_scale": 0.6})
FAMILIES = {"llama": (LlamaConfig, LlamaForCausalLM, LLAMA), "qwen2": (Qwen2Config, Qwen2ForCausalLM, QWEN2),
            "mpt": (MptConfig, MptForCausalLM, MPT)}


def eager(config):
    config._attn_implementation = "eager"
    return config


def wanted(cases):
    """Those of the command line, each with its number among all."""
    return [(k, name, case) for k, (name, case) in enumerate(cases.items()) if name in sys.argv[1:] or not sys.argv[1:]]


def language_of(case, seed):
    config_class, model_class, settings = FAMILIES[case["family"]]
    settings = case.get("language", settings)
    model = model_class(eager(config_class(**settings))).eval()
    randomise(model, 0.25, seed)
    return model, settings


# --- the original form ---
ORIGINAL = {
    # Placeholders of each row, its length in ids, settings of the config.
    "llava_original_llama": dict(family="llama", clip=CLIP, projector="mlp2x_gelu", places=[[2, 5], [], [1]],
                                 lengths=[9, 11, 6], settings={"mm_vision_select_feature": "patch"}),
    "llava_original_mpt": dict(family="mpt", clip=SMALL_CLIP, projector="linear", places=[[3], [0, 1, 6], []],
                               lengths=[8, 10, 7], settings={"mm_vision_select_feature": "cls_patch",
                                                             "tokenizer_padding_side": "left",
                                                             "tokenizer_model_max_length": 21}),
    "llava_original_qwen2": dict(family="qwen2", clip=CLIP, projector="mlp3x_gelu", places=[[4], [2]], lengths=[7, 9],
                                 settings={"tokenizer_padding_side": "left", "mm_vision_select_layer": -1}),
    "llava_original_llama_identity": dict(
        family="llama", language=ODD_LLAMA, clip=dict(ODD_CLIP, hidden_size=18), projector="identity", inside=True,
        places=[[0, 2, 3], [5], []], lengths=[8, 12, 5],
        settings={"mm_vision_select_feature": "cls_patch", "mm_vision_select_layer": -3,
                  "tokenizer_padding_side": "left"}),
    "llava_original_mpt_apart": dict(
        family="mpt", language=ODD_MPT, clip=ODD_CLIP, projector="mlp2x_gelu", inside=False,
        places=[[1, 2, 6], [], [0]], lengths=[9, 13, 7], settings={"mm_vision_select_layer": -1}),
    "llava_original_qwen2_linear": dict(
        family="qwen2", language=ODD_QWEN2, clip=ODD_CLIP, projector="linear", places=[[3, 4], [], [0, 7, 8]],
        lengths=[8, 15, 10], settings={"mm_vision_select_layer": -3, "tokenizer_model_max_length": 17}),
}


def make_projector(kind, inside, outside):
    if kind == "identity":
        return nn.Identity()
    if kind == "linear":
        return nn.Linear(inside, outside)
    layers = [nn.Linear(inside, outside)]
    for _ in range(int(kind[3]) - 1):
        layers += [nn.GELU(), nn.Linear(outside, outside)]
    return nn.Sequential(*layers)


for seed, name, case in wanted(ORIGINAL):
    torch.manual_seed(200 + seed)
    language, settings = language_of(case, 200 + seed)
    clip = CLIPVisionModel(eager(CLIPVisionConfig(**case["clip"]))).eval()
    width = language.get_input_embeddings().weight.shape[1]
    projector = make_projector(case["projector"], case["clip"]["hidden_size"], width)
    randomise(clip, 0.2, 210 + seed)
    randomise(projector, 0.2, 220 + seed)
    vocabulary, longest = settings["vocab_size"], max(case["lengths"])
    ids, mask = torch.zeros(len(case["lengths"]), longest, dtype=torch.long), None
    mask = torch.zeros_like(ids, dtype=torch.bool)
    labels = torch.full_like(ids, -100)
    for c, (length, places) in enumerate(zip(case["lengths"], case["places"])):
        ids[c, :length] = torch.randint(1, vocabulary, (length,))
        labels[c, 2:length] = ids[c, 2:length]
        for place in places:
            ids[c, place], labels[c, place] = -200, -100
        mask[c, :length] = True
    count = sum(max(1, len(places)) for places in case["places"])
    images = torch.randn(count, 3, case["clip"]["image_size"], case["clip"]["image_size"])
    layer = case["settings"].get("mm_vision_select_layer", -2)
    selected = clip(images, output_hidden_states=True).hidden_states[layer]
    if case["settings"].get("mm_vision_select_feature", "patch") == "patch":
        selected = selected[:, 1:]
    features = projector(selected)
    sequence, targets, long_mask = splice(language.get_input_embeddings(), features, ids, labels, mask,
                                          case["settings"].get("tokenizer_model_max_length", 10**9),
                                          case["settings"].get("tokenizer_padding_side") == "left")
    out = language(inputs_embeds=sequence, attention_mask=long_mask, output_hidden_states=True)
    loss = F.cross_entropy(out.logits[:, :-1].reshape(-1, vocabulary), targets[:, 1:].reshape(-1), ignore_index=-100)
    base = "transformer" if case["family"] == "mpt" else "model"
    tower = {f"{base}.vision_tower.vision_tower.{n}": p for n, p in clip.named_parameters()}
    weights = dict(language.named_parameters())
    weights |= {f"{base}.mm_projector.{n}": p for n, p in projector.named_parameters()}
    expected = describe(out, loss) | {"image_features": features, "expanded_labels": targets,
                                      "expanded_attention_mask": long_mask} | with_gradients(loss, weights | tower)
    inside = case.get("inside", case["family"] == "mpt")
    config = settings | case["settings"] | {
        "model_type": f"llava_{case['family']}", "mm_vision_tower": "clip", "mm_projector_type": case["projector"],
        "mm_hidden_size": case["clip"]["hidden_size"], "mm_vision_select_layer": layer}
    folder = write_case(name, config, weights | (tower if inside else {}),
                        {"input_ids": ids, "attention_mask": mask.long(), "labels": labels, "images": images}, expected)
    (folder / "clip").mkdir(exist_ok=True)
    (folder / "clip" / "config.json").write_text(
        json.dumps(case["clip"] | {"model_type": "clip_vision_model"}, indent=1, sort_keys=True) + "\n")
    if not inside:
        save_file({n: p.detach().clone() for n, p in clip.named_parameters()}, folder / "clip" / "model.safetensors")


# --- transformers' form ---
def names_before_4_52(name, family):
    for new, old in (("model.language_model.", f"language_model.{'transformer' if family == 'mpt' else 'model'}."),
                     ("model.vision_tower.", "vision_tower."), ("lm_head.", "language_model.lm_head."),
                     ("model.multi_modal_projector.", "multi_modal_projector.")):
        if name.startswith(new):
            return old + name[len(new):]
    raise ValueError(name)


HF = {
    "llava_hf_llama": dict(family="llama", clip=CLIP, images=[2, 0, 1], old=True, left=True, more={}),
    "llava_hf_qwen2": dict(family="qwen2", clip=SMALL_CLIP, images=[1, 2], old=False, left=False,
                           more=dict(vision_feature_select_strategy="full", vision_feature_layer=[-1, -2],
                                     multimodal_projector_bias=False)),
    "llava_hf_mpt": dict(family="mpt", clip=CLIP, images=[0, 2], old=True, left=False,
                         more=dict(projector_hidden_act="quick_gelu")),
    "llava_hf_llama_three": dict(family="llama", language=ODD_LLAMA, clip=ODD_CLIP, images=[3, 0, 1], old=False,
                                 left=False, more=dict(vision_feature_select_strategy="full", vision_feature_layer=-1)),
    "llava_hf_qwen2_untied": dict(family="qwen2", language=ODD_QWEN2, clip=ODD_CLIP, images=[0, 3, 1], old=True,
                                  left=True, more=dict(vision_feature_layer=-3)),
    "llava_hf_mpt_layers": dict(family="mpt", language=ODD_MPT, clip=ODD_CLIP, images=[1, 3, 0], old=False, left=True,
                                more=dict(vision_feature_layer=[-1, -4, -2], projector_hidden_act="relu")),
}
for seed, name, case in wanted(HF):
    torch.manual_seed(300 + seed)
    settings = case.get("language", FAMILIES[case["family"]][2])
    token = settings["vocab_size"] - 2
    config = eager(LlavaConfig(vision_config=dict(case["clip"], model_type="clip_vision_model"),
                               text_config=dict(settings, model_type=case["family"]), image_token_index=token,
                               **case["more"]))
    model = LlavaForConditionalGeneration(config).eval()
    randomise(model, 0.22, 300 + seed)
    patches = (case["clip"]["image_size"] // case["clip"]["patch_size"]) ** 2
    patches += case["more"].get("vision_feature_select_strategy") == "full"
    rows = []
    for k in case["images"]:
        row = torch.randint(1, token, (2,))
        for _ in range(k):
            row = torch.cat([row, torch.full((patches,), token), torch.randint(1, token, (2,))])
        rows.append(torch.cat([row, torch.randint(1, token, (3 + k,))]))
    longest = max(len(r) for r in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for c, row in enumerate(rows):
        at = slice(longest - len(row), None) if case["left"] else slice(0, len(row))
        ids[c, at], mask[c, at] = row, 1
    labels = torch.where((mask == 1) & (ids != token), ids, -100)
    pixels = torch.randn(sum(case["images"]), 3, case["clip"]["image_size"], case["clip"]["image_size"])
    out = model(input_ids=ids, attention_mask=mask, pixel_values=pixels, labels=labels, output_hidden_states=True)
    weights = dict(model.named_parameters())
    named = {names_before_4_52(n, case["family"]) if case["old"] else n: p for n, p in weights.items()}
    features = out.image_hidden_states.reshape(pixels.shape[0], patches, -1)
    expected = describe(out, out.loss) | {"image_features": features, "expanded_labels": labels,
                                          "expanded_attention_mask": mask} | with_gradients(out.loss, named)
    # A text_config lists only what differs from its class.
    written = config.to_diff_dict() | {"model_type": "llava"}
    folder = write_case(name, written, named, {"input_ids": ids, "attention_mask": mask, "labels": labels,
                                               "pixel_values": pixels}, expected)
    text = torch.randint(1, token, (2, 5))
    with torch.no_grad():
        plain = model(input_ids=text, labels=text)
    save_file({"input_ids": text, "logits": plain.logits.clone(), "loss": plain.loss.clone()},
              folder / "text_only.safetensors")
