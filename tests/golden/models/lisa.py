"""LISA goldens: the reference's wiring (dvlab-research/LISA model/LISA.py, model/llava/model/llava_arch.py) written anew
over transformers' LlamaModel, CLIPVisionModel and SamModel. See common.py for the pinned versions.

One case has several conversations of one image, two masks on one, an image without [SEG], padding, image placeholders in
different columns; the other one image per row and a two-layer projector. Two more have Qwen2 and MPT for a language model (made
with transformers 4.57.6), on MPT under the names that LLaVA's class on MPT gives its parts. One is v0: patch ids in the
text instead of one -200, PyTorch files apart for SAM and the projection of [SEG]. These three have a second size.

`python lisa.py NAME…` makes only the cases named.
"""
import io
import json
import sys

import sentencepiece
import torch
import torch.nn.functional as F
from common import DATA, randomise, write_case
from safetensors.torch import save_file
from sam_common import GAUSSIAN, build_sam, decode_text, facebook_weights, mask_losses, postprocess
from torch import nn
from transformers import (CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM, MptConfig, MptForCausalLM,
                          Qwen2Config, Qwen2ForCausalLM)

SAM = dict(patch_size=8, decoder_depth=2, num_multimask_outputs=3, iou_head_depth=3, mlp_ratio=2.0)
CASES = {
    "lisa_linear": dict(
        llama=dict(vocab_size=44, hidden_size=24, intermediate_size=36, num_hidden_layers=2, num_attention_heads=2,
                   num_key_value_heads=2, rms_norm_eps=1e-6, max_position_embeddings=64),
        clip=dict(hidden_size=20, intermediate_size=28, num_hidden_layers=3, num_attention_heads=2, image_size=21,
                  patch_size=7, hidden_act="quick_gelu", layer_norm_eps=1e-5),
        sam=dict(SAM, image_size=40, embed_dim=24, depth=2, num_heads=3, global_attn_indexes=[1], window_size=3,
                 prompt_embed_dim=16, mask_in_chans=8, decoder_mlp_dim=20, decoder_num_heads=2, iou_head_hidden_dim=12),
        projector="linear", seg=41, offset=[0, 2, 3, 4], segs=[[1, 1], [0], [2]], starts=[3, 5, 4, 3],
        lengths=[12, 10, 9, 13], resized=[(40, 27), (22, 40), (40, 40)], original=[(61, 43), (30, 53), (37, 37)]),
    "lisa_mlp": dict(
        llama=dict(vocab_size=50, hidden_size=32, intermediate_size=44, num_hidden_layers=3, num_attention_heads=4,
                   num_key_value_heads=4, rms_norm_eps=1e-5, max_position_embeddings=64),
        clip=dict(hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=3, image_size=30,
                  patch_size=10, hidden_act="quick_gelu", layer_norm_eps=1e-5),
        sam=dict(SAM, image_size=48, embed_dim=20, depth=3, num_heads=2, global_attn_indexes=[0, 2], window_size=4,
                 prompt_embed_dim=24, mask_in_chans=16, decoder_mlp_dim=28, decoder_num_heads=3, iou_head_hidden_dim=16),
        projector="mlp2x_gelu", seg=47, offset=[0, 1, 2], segs=[[1], [1]], starts=[2, 2], lengths=[11, 11],
        resized=[(48, 48), (31, 48)], original=[(48, 48), (55, 85)]),
    "lisa_qwen2": dict(
        family="llava_qwen2",
        llama=dict(vocab_size=48, hidden_size=24, intermediate_size=36, num_hidden_layers=2, num_attention_heads=4,
                   num_key_value_heads=2, rms_norm_eps=1e-6, max_position_embeddings=64),
        clip=dict(hidden_size=16, intermediate_size=28, num_hidden_layers=2, num_attention_heads=2, image_size=21,
                  patch_size=7, hidden_act="quick_gelu", layer_norm_eps=1e-5),
        sam=dict(SAM, image_size=40, embed_dim=16, depth=1, num_heads=2, global_attn_indexes=[0], window_size=3,
                 prompt_embed_dim=16, mask_in_chans=8, decoder_mlp_dim=12, decoder_num_heads=2, iou_head_hidden_dim=12),
        projector="mlp2x_gelu", seg=45, offset=[0, 1, 3], segs=[[2], [0, 1]], starts=[3, 2, 4], lengths=[12, 8, 10],
        resized=[(40, 27), (40, 40)], original=[(61, 43), (37, 37)]),
    "lisa_mpt": dict(
        family="llava_mpt",
        llama=dict(vocab_size=46, d_model=18, n_layers=2, n_heads=3, max_seq_len=64, attn_config={"clip_qkv": 0.9}),
        clip=dict(hidden_size=16, intermediate_size=20, num_hidden_layers=2, num_attention_heads=2, image_size=20,
                  patch_size=10, hidden_act="quick_gelu", layer_norm_eps=1e-5),
        sam=dict(SAM, image_size=32, embed_dim=16, depth=1, num_heads=2, global_attn_indexes=[0], window_size=3,
                 prompt_embed_dim=16, mask_in_chans=8, decoder_mlp_dim=12, decoder_num_heads=2, iou_head_hidden_dim=12),
        projector="linear", seg=43, offset=[0, 1, 2], segs=[[1], [1]], starts=[2, 4], lengths=[9, 11],
        resized=[(32, 32), (21, 32)], original=[(32, 32), (37, 57)]),
}
CASES["lisa_v0"] = dict(CASES["lisa_mpt"], family="llava", v0=True, llama=dict(
    vocab_size=47, hidden_size=16, intermediate_size=20, num_hidden_layers=1, num_attention_heads=2,
    num_key_value_heads=2, rms_norm_eps=1e-6, max_position_embeddings=64))
# The second sizes: grids of 3 x 3, odd numbers of heads, several conversations of a picture, pictures without [SEG].
ODD = dict(
    sam_std=0.3,
    clip=dict(hidden_size=9, intermediate_size=13, num_hidden_layers=3, num_attention_heads=3, image_size=17,
              patch_size=7, hidden_act="quick_gelu", layer_norm_eps=1e-5),
    sam=dict(SAM, image_size=24, embed_dim=12, depth=2, num_heads=3, global_attn_indexes=[1], window_size=2,
             prompt_embed_dim=24, mask_in_chans=12, decoder_mlp_dim=10, decoder_num_heads=3, iou_head_hidden_dim=7,
             decoder_depth=1, mlp_ratio=1.5))
CASES |= {
    "lisa_qwen2_tied": dict(
        ODD, family="llava_qwen2", projector="linear", seg=48, offset=[0, 1, 2, 4], segs=[[0], [3], [1, 0]],
        starts=[2, 4, 3, 5], lengths=[8, 14, 10, 11], resized=[(24, 17), (13, 24), (24, 24)],
        original=[(31, 22), (15, 28), (19, 19)],
        llama=dict(vocab_size=51, hidden_size=30, intermediate_size=26, num_hidden_layers=1, num_attention_heads=5,
                   num_key_value_heads=1, rms_norm_eps=1e-6, max_position_embeddings=64, tie_word_embeddings=True)),
    "lisa_mpt_five_heads": dict(
        ODD, family="llava_mpt", projector="mlp2x_gelu", seg=45, offset=[0, 2, 3], segs=[[1, 1], [0]],
        starts=[3, 2, 4], lengths=[12, 9, 10], resized=[(24, 17), (13, 24)], original=[(31, 22), (15, 28)],
        llama=dict(vocab_size=48, d_model=15, n_layers=3, n_heads=5, max_seq_len=64,
                   attn_config={"alibi_bias_max": 4, "softmax_scale": 0.6})),
    "lisa_v0_two_layers": dict(
        ODD, family="llava", v0=True, projector="linear", seg=43, offset=[0, 2, 3, 4], segs=[[1, 1], [0], [2]],
        starts=[3, 5, 4, 3], lengths=[12, 10, 9, 13], resized=[(24, 24), (13, 24), (24, 17)],
        original=[(19, 19), (15, 28), (31, 22)],
        llama=dict(vocab_size=47, hidden_size=18, intermediate_size=22, num_hidden_layers=2, num_attention_heads=3,
                   num_key_value_heads=3, rms_norm_eps=1e-6, max_position_embeddings=64)),
}
FAMILIES = {"llava": (LlamaConfig, LlamaForCausalLM), "llava_qwen2": (Qwen2Config, Qwen2ForCausalLM),
            "llava_mpt": (MptConfig, MptForCausalLM)}


def make_language(case):
    config_class, model_class = FAMILIES[case.get("family", "llava")]
    config = config_class(**case["llama"])
    config._attn_implementation = "eager"
    return model_class(config)


def make_projector(kind, inside, outside):
    if kind == "linear":
        return nn.Linear(inside, outside)
    return nn.Sequential(nn.Linear(inside, outside), nn.GELU(), nn.Linear(outside, outside))


def make_text(case, vocabulary, seg):
    """Rows as the collate pads them: one -200 each, [SEG] at odd places of the answer, labels on the answer alone."""
    length = max(case["lengths"])
    ids = torch.zeros(len(case["lengths"]), length, dtype=torch.long)
    labels = torch.full_like(ids, -100)
    mask = torch.zeros_like(ids, dtype=torch.bool)
    counts = [n for image in case["segs"] for n in image]
    for c, (n, start) in enumerate(zip(case["lengths"], case["starts"])):
        ids[c, :n] = torch.randint(1, seg, (n,))
        ids[c, start] = -200
        mask[c, :n] = True
        for k in range(counts[c]):
            ids[c, n - 2 - 2 * k] = seg
        labels[c, start + 2 : n] = ids[c, start + 2 : n]
    return ids, labels, mask


def train_tokenizer(size):
    """A sentencepiece model of exactly `size` pieces: the model's ids need names, and [SEG] a place after them."""
    words = "the quick brown fox jumps over a lazy dog while many small zebras graze near five quiet wet rivers".split()
    sentences = [" ".join(words[i:] + words[:i]) for i in range(len(words))]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(sentences), model_writer=model, vocab_size=size,
                                             model_type="bpe", normalization_rule_name="identity", num_threads=1,
                                             minloglevel=2)
    return model.getvalue()


for seed, (name, case) in enumerate(CASES.items()):
    if sys.argv[1:] and name not in sys.argv[1:]:
        continue
    torch.manual_seed(40 + seed)
    llama = make_language(case)
    clip = CLIPVisionModel(CLIPVisionConfig(**case["clip"], attn_implementation="eager"))
    sam, _ = build_sam(case["sam"], 1e-5, 44 + seed, case.get("sam_std", 0.15))
    width, prompt = llama.get_input_embeddings().weight.shape[1], case["sam"]["prompt_embed_dim"]
    projector = make_projector(case["projector"], case["clip"]["hidden_size"], width)
    fcs = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, prompt))
    for k, module in enumerate((llama, clip, projector, fcs)):
        randomise(module, 0.2, 50 + 10 * seed + k)

    ids, labels, mask = make_text(case, case["llama"]["vocab_size"], case["seg"])
    side, offset = case["sam"]["image_size"], case["offset"]
    images = torch.randn(len(offset) - 1, 3, side, side)
    images_clip = torch.randn(len(offset) - 1, 3, case["clip"]["image_size"], case["clip"]["image_size"])
    counts = [sum(image) for image in case["segs"]]
    targets = [(torch.rand(n, *size) > 0.5).float() for n, size in zip(counts, case["original"])]

    # LLaVA's splice, one row after the other.
    embeddings = sam.vision_encoder(images)[0]
    features = clip(images_clip, output_hidden_states=True).hidden_states[-2][:, 1:]
    projected = projector(features)
    patches = features.shape[1]
    image_of_row = [b for b in range(len(offset) - 1) for _ in range(offset[b], offset[b + 1])]
    rows, row_labels = [], []
    for c in range(ids.shape[0]):
        k = int((ids[c] == -200).nonzero())
        embed = llama.get_input_embeddings()
        rows.append(torch.cat([embed(ids[c, :k]), projected[image_of_row[c]], embed(ids[c, k + 1 :])]))
        row_labels.append(torch.cat([labels[c, :k], torch.full((patches,), -100), labels[c, k + 1 :]]))
    long_mask = torch.cat([torch.ones(ids.shape[0], patches - 1, dtype=torch.bool), mask], 1)
    out = llama(inputs_embeds=torch.stack(rows), attention_mask=long_mask.long(), output_hidden_states=True)
    hidden = out.hidden_states[-1]
    shifted = out.logits[:, :-1].reshape(-1, out.logits.shape[-1])
    ce = F.cross_entropy(shifted, torch.stack(row_labels)[:, 1:].reshape(-1), ignore_index=-100)

    # The position before [SEG], moved by the picture's features.
    seg = torch.cat([ids[:, 1:] == case["seg"], torch.zeros(ids.shape[0], 1, dtype=torch.bool)], 1)
    seg = torch.cat([torch.zeros(ids.shape[0], patches - 1, dtype=torch.bool), seg], 1)
    predictions = fcs(hidden)[seg]
    per_row = seg.sum(1).tolist()
    expected, low_res, predicted, first = {}, [], [], 0
    for b in range(len(offset) - 1):
        n = sum(per_row[offset[b] : offset[b + 1]])
        grid = side // case["sam"]["patch_size"]
        if n:
            low, iou = decode_text(sam, embeddings[b : b + 1], predictions[first : first + n])
            predicted.append(postprocess(low, side, case["resized"][b], case["original"][b]))
        else:
            low, iou = torch.zeros(0, 1, 4 * grid, 4 * grid), torch.zeros(0, 1)
            predicted.append(torch.zeros(0, *case["original"][b]))
        expected |= {f"low_res_masks.{b}": low, f"iou_predictions.{b}": iou, f"pred_masks.{b}": predicted[-1]}
        first += n
    bce, dice = mask_losses(predicted, targets)
    losses = {"ce_loss": ce, "mask_bce_loss": 2.0 * bce, "mask_dice_loss": 0.5 * dice}
    losses["mask_loss"] = losses["mask_bce_loss"] + losses["mask_dice_loss"]
    losses["loss"] = losses["ce_loss"] + losses["mask_loss"]
    losses["loss"].backward()

    weights = {n: p for n, p in llama.named_parameters()}
    base = "transformer" if case.get("family") == "llava_mpt" else "model"
    weights |= {f"{base}.mm_projector.{n}": p for n, p in projector.named_parameters()}
    weights |= {f"{base}.vision_tower.vision_tower.{n}": p for n, p in clip.named_parameters()}
    weights |= {f"{base}.visual_model.{n}": p for n, p in facebook_weights(sam).items()}
    weights |= {f"{base}.text_hidden_fcs.0.{n}": p for n, p in fcs.named_parameters()}
    gradients = {f"grad.{n}": p.grad for n, p in weights.items() if p.grad is not None}
    # hidden_states are followed by the expected norm over what LISA trains.
    trained = [p.grad for n, p in weights.items() if p.grad is not None and
               any(part in n for part in ("lm_head", "embed_tokens", ".wte.", "mask_decoder", "text_hidden_fcs"))]
    expected |= losses | gradients
    expected |= {"grad_norm_total": torch.sqrt(sum((g.double() ** 2).sum() for g in trained)).float()}
    expected |= {"logits": out.logits, "final_hidden": hidden, "clip_features": features, "projected_features": projected,
                 "sam_image_embeddings": embeddings, "pred_embeddings": predictions, "seg_positions": seg.nonzero()}
    expected |= {f"hidden_states.{k}": h for k, h in enumerate(out.hidden_states)}
    inputs = {"images": images, "images_clip": images_clip, "input_ids": ids, "labels": labels,
              "attention_masks": mask.to(torch.uint8), "offset": torch.tensor(offset),
              "resize_list": torch.tensor(case["resized"]), "label_sizes": torch.tensor(case["original"]),
              "masks_counts": torch.tensor(counts), "masks_flat": torch.cat([t.flatten() for t in targets])}
    all_weights = weights | {f"{base}.visual_model.{GAUSSIAN}": sam.shared_image_embedding.positional_embedding}
    config = case["llama"] | {
        "model_type": case.get("family", "llava"), "architectures": ["LISAForCausalLM"], "mm_vision_tower": "clip",
        "mm_hidden_size": case["clip"]["hidden_size"], "mm_vision_select_layer": -2, "mm_vision_select_feature": "patch",
        "mm_projector_type": case["projector"], "mm_use_im_start_end": True, "out_dim": prompt,
        "train_mask_decoder": True, "sam_config": case["sam"] | {"norm_eps": 1e-5}}
    folder = write_case(name, config, all_weights, inputs, expected)
    (folder / "tokenizer.model").write_bytes(train_tokenizer(case["seg"]))
    tokens = ("[SEG]", "<im_patch>", "<im_start>", "<im_end>") if case.get("v0") else ("[SEG]", "<im_start>", "<im_end>")
    added = {token: case["seg"] + k for k, token in enumerate(tokens)}
    (folder / "added_tokens.json").write_text(json.dumps(added) + "\n")
    (folder / "clip").mkdir(exist_ok=True)
    (folder / "clip" / "config.json").write_text(
        json.dumps(case["clip"] | {"model_type": "clip_vision_model"}, indent=1, sort_keys=True) + "\n")
    if case.get("v0"):
        (folder / "model.safetensors").unlink()
        parts = {"visual_model": {}, "text_hidden_fcs": {}, "lm": {}}
        for n, p in all_weights.items():
            part = n.removeprefix("model.").split(".")[0]
            inside = n.removeprefix(f"model.{part}.") if part in parts else n
            parts[part if part in parts else "lm"][inside] = p.detach().clone()
        torch.save(parts["lm"], folder / "pytorch_model.bin")
        for part in ("visual_model", "text_hidden_fcs"):
            torch.save(parts[part], folder / f"pytorch_model-{part}.bin")
        patch = case["seg"] + 1

        def in_v0(rows, filling):
            out = []
            for c in range(rows.shape[0]):
                k = int((ids[c] == -200).nonzero())
                run = torch.full((patches,), filling, dtype=rows.dtype)
                out.append(torch.cat([rows[c, :k], run, rows[c, k + 1 :]]))
            return torch.stack(out)
        inputs |= {"input_ids": in_v0(ids, patch), "labels": in_v0(labels, -100),
                   "attention_masks": in_v0(mask, True).to(torch.uint8)}
        save_file({k: v.clone().contiguous() for k, v in inputs.items()}, folder / "inputs.safetensors")
