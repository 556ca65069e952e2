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
from common import randomise, write_case
from torch import nn
from transformers import FastVlmConfig, FastVlmForConditionalGeneration, Qwen2Config, Qwen2ForCausalLM

QWEN2 = dict(vocab_size=45, hidden_size=24, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, rms_norm_eps=1e-6, max_position_embeddings=128, tie_word_embeddings=True)


def gradients(loss, weights):
    loss.backward()
    return {f"grad.{n}": p.grad for n, p in weights.items() if p.grad is not None}


def describe(out, loss):
    hidden = out.hidden_states
    return {"logits": out.logits, "loss": loss, "last_hidden_state": hidden[-1]} | {
        f"hidden_states.{i}": h for i, h in enumerate(hidden)}


def apple_form(checkout):
    torch.manual_seed(501)
    sizes = {"layers": [1, 2, 1, 1], "embed_dims": [4, 8, 8, 32], "mlp_ratios": [2, 3, 2, 1],
             "token_mixers": ["repmixer"] * 3 + ["attention"]}
    network = fastvit.apple_network(fastvit.load_apple(checkout), sizes, 6, False).double().eval()
    fastvit.randomise(network, 502)
    network = fastvit.folded(network).float()
    language = Qwen2ForCausalLM(Qwen2Config(**QWEN2, attn_implementation="eager")).eval()
    randomise(language, 0.25, 503)
    projector = nn.Sequential(nn.Linear(64, 24), nn.GELU(), nn.Linear(24, 24))
    randomise(projector, 0.2, 504)

    ids = torch.randint(1, 45, (2, 7))
    ids[0, 3] = ids[1, 1] = -200
    mask = torch.ones_like(ids)
    ids[1, 6:], mask[1, 6:] = 0, 0
    labels = torch.where((mask == 1) & (ids >= 0), ids, -100)
    images = torch.rand(2, 3, 40, 40)
    features = projector(fastvit.apple_features(network, images).flatten(2).transpose(1, 2))
    tokens = features.shape[1]
    embed, rows, targets = language.get_input_embeddings(), [], []
    for row in range(2):
        own, own_labels = ids[row][mask[row] == 1], labels[row][mask[row] == 1]
        slot = int((own == -200).nonzero())
        rows.append(torch.cat([embed(own[:slot]), features[row], embed(own[slot + 1:])]))
        targets.append(torch.cat([own_labels[:slot], torch.full((tokens,), -100), own_labels[slot + 1:]]))
    longest = max(len(row) for row in rows)
    padded = torch.stack([F.pad(row, (0, 0, 0, longest - len(row))) for row in rows])
    targets = torch.stack([F.pad(t, (0, longest - len(t)), value=-100) for t in targets])
    long_mask = torch.stack([(torch.arange(longest) < len(row)).long() for row in rows])
    out = language(inputs_embeds=padded, attention_mask=long_mask, output_hidden_states=True)
    loss = F.cross_entropy(out.logits[:, :-1].reshape(-1, 45), targets[:, 1:].reshape(-1), ignore_index=-100)
    weights = {n: p for n, p in language.named_parameters()}
    weights |= {f"model.mm_projector.{n}": p for n, p in projector.named_parameters()}
    tower = {f"model.vision_tower.vision_tower.model.{n}": p for n, p in network.named_parameters()}
    buffers = {f"model.vision_tower.vision_tower.model.{n}": b for n, b in network.named_buffers()}
    expected = describe(out, loss) | {"image_features": features, "expanded_labels": targets,
                                      "expanded_attention_mask": long_mask} | gradients(loss, weights | tower)
    config = QWEN2 | {"model_type": "llava_qwen2", "architectures": ["LlavaQwen2ForCausalLM"],
                      "mm_vision_tower": "mobileclip_l_40", "mm_hidden_size": 64, "mm_projector_type": "mlp2x_gelu",
                      "mm_vision_select_layer": -2, "mm_vision_select_feature": "patch", "mm_patch_merge_type": "flat",
                      "unfreeze_mm_vision_tower": True, "image_aspect_ratio": "pad",
                      "tokenizer_model_max_length": 8192, "tokenizer_padding_side": "right"}
    write_case("fastvlm_apple", config, weights | tower | buffers,
               {"input_ids": ids, "attention_mask": mask, "labels": labels, "images": images}, expected)


def transformers_form():
    torch.manual_seed(511)
    config = FastVlmConfig(
        vision_config=dict(architecture="fastvit_mci3", model_type="timm_wrapper", hidden_size=64, do_pooling=True,
                           model_args=dict(fastvit.ARGS, inference_mode=True)),
        text_config=dict(QWEN2, model_type="qwen2", tie_word_embeddings=False), image_token_index=43,
        tie_word_embeddings=False)
    config._attn_implementation = "eager"
    model = FastVlmForConditionalGeneration(config).eval()
    randomise(model, 0.25, 512)
    tower = model.model.vision_tower.timm_model.double()
    fastvit.randomise(tower, 513)
    tower.float().eval()
    ids = torch.randint(1, 42, (2, 11))
    ids[0, 2:5] = ids[1, 4:7] = 43
    mask = torch.ones_like(ids)
    ids[0, 9:], mask[0, 9:] = 0, 0
    labels = torch.where((mask == 1) & (ids != 43), ids, -100)
    pixels = torch.rand(2, 3, 35, 131)
    out = model(input_ids=ids, attention_mask=mask, labels=labels, pixel_values=pixels, output_hidden_states=True)
    weights = {n: p for n, p in model.named_parameters() if ".head.fc" not in n}
    buffers = {n: b for n, b in model.named_buffers() if ".bn." in n}
    expected = describe(out, out.loss) | {
        "image_features": out.image_hidden_states.reshape(2, 3, -1), "expanded_labels": labels,
        "expanded_attention_mask": mask} | gradients(out.loss, weights)
    write_case("fastvlm_transformers", config.to_dict(), weights | buffers,
               {"input_ids": ids, "attention_mask": mask, "labels": labels, "pixel_values": pixels}, expected)


if __name__ == "__main__":
    apple_form(sys.argv[1])
    transformers_form()
