"""SAM goldens by facebook's own package (segment-anything 1.0): points, boxes and masks together, several masks and one,
postprocessing, gradients; an encoder without absolute positions on pictures of other sizes than its tables (their
relative positions are resized); the published sizes. See common.py for the other pinned versions."""
import json

import torch
from common import DATA, randomise, write_case
from segment_anything import sam_model_registry
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

CASES = {
    "sam_package": dict(image_size=45, patch_size=9, embed_dim=18, depth=3, num_heads=3, mlp_ratio=2.0,
                        global_attn_indexes=[0, 2], window_size=3, prompt_embed_dim=16, mask_in_chans=4,
                        decoder_depth=3, decoder_mlp_dim=14, decoder_num_heads=2, num_multimask_outputs=2,
                        iou_head_depth=3, iou_head_hidden_dim=10),
    "sam_package_free_size": dict(image_size=40, patch_size=8, embed_dim=20, depth=3, num_heads=2, mlp_ratio=3.0,
                                  global_attn_indexes=[1], window_size=4, prompt_embed_dim=24, mask_in_chans=8,
                                  decoder_depth=1, decoder_mlp_dim=20, decoder_num_heads=3, num_multimask_outputs=3,
                                  iou_head_depth=2, iou_head_hidden_dim=12, use_abs_pos=False, qkv_bias=False),
}
INPUT_SIZES, ORIGINAL_SIZES = [(45, 31), (28, 45)], [(53, 36), (19, 30)]


def build(c):
    grid = c["image_size"] // c["patch_size"]
    d = c["prompt_embed_dim"]
    encoder = ImageEncoderViT(img_size=c["image_size"], patch_size=c["patch_size"], embed_dim=c["embed_dim"],
                              depth=c["depth"], num_heads=c["num_heads"], mlp_ratio=c["mlp_ratio"], out_chans=d,
                              qkv_bias=c.get("qkv_bias", True), use_abs_pos=c.get("use_abs_pos", True),
                              use_rel_pos=True, norm_layer=lambda n: torch.nn.LayerNorm(n, eps=1e-6),
                              window_size=c["window_size"], global_attn_indexes=tuple(c["global_attn_indexes"]))
    prompts = PromptEncoder(d, (grid, grid), (c["image_size"], c["image_size"]), c["mask_in_chans"])
    transformer = TwoWayTransformer(c["decoder_depth"], d, c["decoder_num_heads"], c["decoder_mlp_dim"])
    decoder = MaskDecoder(transformer_dim=d, transformer=transformer, num_multimask_outputs=c["num_multimask_outputs"],
                          iou_head_depth=c["iou_head_depth"], iou_head_hidden_dim=c["iou_head_hidden_dim"])
    return Sam(encoder, prompts, decoder).eval()


def record(model):
    blocks = []
    hooks = [b.register_forward_hook(lambda _m, _i, out: blocks.append(out)) for b in model.image_encoder.blocks]
    return blocks, hooks


def prompted(model, embeddings, points, labels, boxes, masks):
    """The sets of one picture: {name: tensor} with the prompts in front."""
    found = {}
    sets = {"points": ((points, labels), None), "boxes": (None, boxes), "points_boxes": ((points, labels), boxes)}
    for tail, mask in (("", None), ("_mask", masks)):
        for name, (point, box) in sets.items():
            dense_in = None if mask is None else mask.repeat(points.shape[0], 1, 1, 1)
            sparse, dense = model.prompt_encoder(points=point, boxes=box, masks=dense_in)
            found[f"sparse_embeddings.{name}{tail}"] = sparse
            for many in (True, False):
                # The package repeats its one picture for every prompt.
                low, iou = model.mask_decoder(image_embeddings=embeddings, image_pe=model.prompt_encoder.get_dense_pe(),
                                              sparse_prompt_embeddings=sparse, dense_prompt_embeddings=dense,
                                              multimask_output=many)
                kind = f"{name}{tail}.{'multi' if many else 'single'}"
                found |= {f"low_res_masks.{kind}": low, f"iou_predictions.{kind}": iou}
    return found


for seed, (name, sizes) in enumerate(CASES.items()):
    torch.manual_seed(60 + seed)
    model = build(sizes)
    randomise(model, 0.15, 60 + seed)
    model.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix.normal_()
    side, free = sizes["image_size"], not sizes.get("use_abs_pos", True)
    pixels = torch.randn(2, 3, 56, 24) if free else torch.randn(2, 3, side, side)
    blocks, hooks = record(model)
    embeddings = model.image_encoder(pixels)
    inputs = {"pixel_values": pixels}
    expected = {"image_embeddings": embeddings, "image_pe": model.prompt_encoder.get_dense_pe()}
    expected |= {f"block.{i}": h for i, h in enumerate(blocks)}
    if not free:
        n, k, grid = 3, 2, side // sizes["patch_size"]
        corner = torch.rand(2, n, 2) * side / 2
        inputs |= {"input_points": torch.rand(2, n, k, 2) * side, "input_labels": torch.randint(-1, 2, (2, n, k)),
                   "input_boxes": torch.cat([corner, corner + side / 3], -1),
                   "input_masks": torch.randn(2, 1, 4 * grid, 4 * grid)}
        per_picture = [prompted(model, embeddings[i : i + 1], inputs["input_points"][i], inputs["input_labels"][i],
                                inputs["input_boxes"][i], inputs["input_masks"][i : i + 1]) for i in range(2)]
        expected |= {key: torch.stack([found[key] for found in per_picture]) for key in per_picture[0]}
        expected["dense_embeddings.mask"] = model.prompt_encoder(None, None, inputs["input_masks"])[1]
        for i in range(2):
            inputs |= {f"input_size.{i}": torch.tensor(INPUT_SIZES[i]),
                       f"original_size.{i}": torch.tensor(ORIGINAL_SIZES[i])}
            for key, value in per_picture[i].items():
                if key.startswith("low_res_masks."):
                    expected[f"pred_masks.{key.removeprefix('low_res_masks.')}.{i}"] = model.postprocess_masks(
                        value, INPUT_SIZES[i], ORIGINAL_SIZES[i])
    weighted = ["image_embeddings"] if free else ["low_res_masks.points_boxes_mask.multi", "low_res_masks.points.single",
                                                  "iou_predictions.boxes.multi", "iou_predictions.points.single"]
    loss = 0.0
    for key in weighted:
        inputs[f"cotangent.{key}"] = torch.randn_like(expected[key])
        loss = loss + (inputs[f"cotangent.{key}"] * expected[key]).sum()
    loss.backward()
    expected["loss"] = loss
    expected |= {f"grad.{n}": p.grad for n, p in model.named_parameters() if p.grad is not None}
    weights = dict(model.named_parameters()) | {
        n: b for n, b in model.named_buffers() if n.endswith("gaussian_matrix")}
    write_case(name, sizes | {"model_type": "sam"}, weights, inputs, expected)

counts = {}
for variant in ("vit_b", "vit_l", "vit_h"):
    with torch.device("meta"):
        model = sam_model_registry[variant]()
    parts = {part: sum(p.numel() for p in getattr(model, part).parameters())
             for part in ("image_encoder", "prompt_encoder", "mask_decoder")}
    counts[variant] = parts | {"tensors": sum(1 for _ in model.parameters())}
(DATA / "sam_published_sizes.json").write_text(json.dumps(counts, indent=1) + "\n")
