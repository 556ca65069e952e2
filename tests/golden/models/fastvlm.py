"""FastVLM goldens: LLaVA with FastViTHD on Qwen2. Apple's form by apple/ml-fastvlm's own tower (see fastvit.py) over
transformers' Qwen2, spliced as its llava_arch.py does; transformers' form by FastVlmForConditionalGeneration. Made with
transformers 5.0.0, timm 1.0.22, torch 2.11.0.

    python fastvlm.py PATH/TO/ml-fastvlm

Apple's is named mobileclip_l_40, so its sizes are in its weights alone. The pictures of transformers' are no squares.
"""
import sys

import fastvit
import torch
import torch.nn.functional as F
from common import describe, randomise, splice, with_gradients, write_case
from torch import nn
from transformers import FastVlmConfig, FastVlmForConditionalGeneration, Qwen2Config, Qwen2ForCausalLM

QWEN2 = dict(vocab_size=45, hidden_size=24, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, rms_norm_eps=1e-6, max_position_embeddings=128, tie_word_embeddings=True)
ODD_QWEN2 = dict(QWEN2, vocab_size=53, hidden_size=30, intermediate_size=26, num_hidden_layers=1,
                 num_attention_heads=5, num_key_value_heads=1, tie_word_embeddings=False)


# Apple's: placeholders of each row and its length. transformers': pictures of each row.
APPLE = {
    "fastvlm_apple": dict(
        language=QWEN2, side=40, places=[[3], [1]], lengths=[7, 6], seed=501, positioned=fastvit.POSITIONED,
        tower={"layers": [1, 2, 1, 1], "embed_dims": [4, 8, 8, 32], "mlp_ratios": [2, 3, 2, 1],
               "token_mixers": ["repmixer"] * 3 + ["attention"]}),
    "fastvlm_apple_convolutions": dict(
        language=ODD_QWEN2, side=33, places=[[2, 3, 6], [], [0]], lengths=[9, 12, 5], seed=521,
        positioned=[None, True, None, None],
        tower={"layers": [1, 1, 2, 1], "embed_dims": [3, 3, 6, 12], "mlp_ratios": [3, 1, 2, 2],
               "token_mixers": ["repmixer"] * 4}),
}
TRANSFORMERS = {
    "fastvlm_transformers": dict(
        language=dict(QWEN2, tie_word_embeddings=False), tower=fastvit.ARGS, size=(35, 131), images=None, tokens=3,
        token=43, seed=511),
    "fastvlm_transformers_three_stages": dict(
        language=dict(ODD_QWEN2, tie_word_embeddings=True), size=(21, 50), images=[2, 0, 1], tokens=8, token=51,
        seed=531, tower={"layers": [2, 1, 1], "embed_dims": [3, 6, 12], "mlp_ratios": [2, 3, 1]}),
}


def apple_form(apple, name, case):
    seed, width, vocabulary = case["seed"], 2 * case["tower"]["embed_dims"][-1], case["language"]["vocab_size"]
    torch.manual_seed(seed)
    network = fastvit.apple_network(apple, case["tower"], 6, False, case["positioned"]).double().eval()
    fastvit.randomise(network, seed + 1)
    network = fastvit.folded(network).float()
    language = Qwen2ForCausalLM(Qwen2Config(**case["language"], attn_implementation="eager")).eval()
    randomise(language, 0.25, seed + 2)
    hidden = case["language"]["hidden_size"]
    projector = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, hidden))
    randomise(projector, 0.2, seed + 3)

    ids = torch.randint(1, vocabulary, (len(case["places"]), max(case["lengths"])))
    mask = torch.ones_like(ids)
    for row, (places, length) in enumerate(zip(case["places"], case["lengths"])):
        ids[row, places] = -200
        ids[row, length:], mask[row, length:] = 0, 0
    labels = torch.where((mask == 1) & (ids >= 0), ids, -100)
    images = torch.rand(sum(max(1, len(places)) for places in case["places"]), 3, case["side"], case["side"])
    features = projector(fastvit.apple_features(network, images).flatten(2).transpose(1, 2))
    sequence, targets, long_mask = splice(language.get_input_embeddings(), features, ids, labels, mask == 1)
    out = language(inputs_embeds=sequence, attention_mask=long_mask, output_hidden_states=True)
    loss = F.cross_entropy(out.logits[:, :-1].reshape(-1, vocabulary), targets[:, 1:].reshape(-1), ignore_index=-100)
    weights = {n: p for n, p in language.named_parameters()}
    weights |= {f"model.mm_projector.{n}": p for n, p in projector.named_parameters()}
    tower = {f"model.vision_tower.vision_tower.model.{n}": p for n, p in network.named_parameters()}
    buffers = {f"model.vision_tower.vision_tower.model.{n}": b for n, b in network.named_buffers()}
    expected = describe(out, loss) | {"image_features": features, "expanded_labels": targets,
                                      "expanded_attention_mask": long_mask} | with_gradients(loss, weights | tower)
    config = case["language"] | {
        "model_type": "llava_qwen2", "architectures": ["LlavaQwen2ForCausalLM"],
        "mm_vision_tower": f"mobileclip_l_{case['side']}", "mm_hidden_size": width, "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_layer": -2, "mm_vision_select_feature": "patch", "mm_patch_merge_type": "flat",
        "unfreeze_mm_vision_tower": True, "image_aspect_ratio": "pad", "tokenizer_model_max_length": 8192,
        "tokenizer_padding_side": "right"}
    write_case(name, config, weights | tower | buffers,
               {"input_ids": ids, "attention_mask": mask, "labels": labels, "images": images}, expected)


def rows_of(images, tokens, token):
    """Rows with that many pictures each, padded on the left."""
    rows = []
    for count in images:
        row = torch.randint(1, token, (2,))
        for _ in range(count):
            row = torch.cat([row, torch.full((tokens,), token), torch.randint(1, token, (2,))])
        rows.append(row)
    longest = max(len(row) for row in rows)
    ids = torch.stack([F.pad(row, (longest - len(row), 0)) for row in rows])
    return ids, (ids != 0).long()


def two_rows(token):
    """Rows with one picture of three tokens each, padded on the right."""
    ids = torch.randint(1, token - 1, (2, 11))
    ids[0, 2:5] = ids[1, 4:7] = token
    mask = torch.ones_like(ids)
    ids[0, 9:], mask[0, 9:] = 0, 0
    return ids, mask


def transformers_form(name, case):
    seed, token = case["seed"], case["token"]
    torch.manual_seed(seed)
    config = FastVlmConfig(
        vision_config=dict(architecture="fastvit_mci3", model_type="timm_wrapper", do_pooling=True,
                           hidden_size=2 * case["tower"]["embed_dims"][-1],
                           model_args=dict(case["tower"], inference_mode=True)),
        text_config=dict(case["language"], model_type="qwen2"), image_token_index=token,
        tie_word_embeddings=case["language"]["tie_word_embeddings"])
    config._attn_implementation = "eager"
    model = FastVlmForConditionalGeneration(config).eval()
    randomise(model, 0.25, seed + 1)
    tower = model.model.vision_tower.timm_model.double()
    fastvit.randomise(tower, seed + 2)
    tower.float().eval()
    images, tokens = sum(case["images"] or [1, 1]), case["tokens"]
    ids, mask = rows_of(case["images"], tokens, token) if case["images"] else two_rows(token)
    labels = torch.where((mask == 1) & (ids != token), ids, -100)
    pixels = torch.rand(images, 3, *case["size"])
    out = model(input_ids=ids, attention_mask=mask, labels=labels, pixel_values=pixels, output_hidden_states=True)
    weights = {n: p for n, p in model.named_parameters() if ".head.fc" not in n}
    buffers = {n: b for n, b in model.named_buffers() if ".bn." in n}
    expected = describe(out, out.loss) | {
        "image_features": out.image_hidden_states.reshape(images, tokens, -1), "expanded_labels": labels,
        "expanded_attention_mask": mask} | with_gradients(out.loss, weights)
    write_case(name, config.to_dict(), weights | buffers,
               {"input_ids": ids, "attention_mask": mask, "labels": labels, "pixel_values": pixels}, expected)


if __name__ == "__main__":
    apple = fastvit.load_apple(sys.argv[1])
    for name, case in APPLE.items():
        apple_form(apple, name, case)
    for name, case in TRANSFORMERS.items():
        transformers_form(name, case)
