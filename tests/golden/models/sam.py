"""SAM goldens by transformers' SamModel: text prompts through its decoder, and points, boxes and masks. Case one is a
folder in transformers' names (decoder norms of eps 1e-6 as its configs say), case two one in facebook's (1e-5).
See common.py for the pinned versions."""
import torch
from common import write_case
from sam_common import GAUSSIAN, build_sam, decode_text, facebook_weights, mask_losses, postprocess

BASE = dict(patch_size=8, decoder_depth=2, num_multimask_outputs=3, iou_head_depth=3)
CASES = {
    "sam_transformers_names": (dict(BASE, image_size=40, embed_dim=24, depth=3, num_heads=3, mlp_ratio=2.5,
                                    global_attn_indexes=[1], window_size=3, prompt_embed_dim=16, mask_in_chans=8,
                                    decoder_mlp_dim=20, decoder_num_heads=2, iou_head_hidden_dim=12), 1e-6),
    "sam_facebook_names": (dict(BASE, image_size=56, embed_dim=20, depth=2, num_heads=2, mlp_ratio=4.0,
                                global_attn_indexes=[1], window_size=4, prompt_embed_dim=24, mask_in_chans=12,
                                decoder_mlp_dim=36, decoder_num_heads=3, iou_head_hidden_dim=24, iou_head_depth=4), 1e-5),
}
SIZES = {"resized": [[(40, 27), (22, 40)], [(56, 41), (33, 56)]], "original": [[(61, 43), (30, 53)], [(50, 37), (40, 67)]]}

for seed, (name, (sizes, eps)) in enumerate(CASES.items()):
    torch.manual_seed(20 + seed)
    model, hf_config = build_sam(sizes, eps, 20 + seed)
    side, d, grid = sizes["image_size"], sizes["prompt_embed_dim"], sizes["image_size"] // 8
    pixels = torch.randn(2, 3, side, side)
    vision = model.vision_encoder(pixels, output_hidden_states=True)
    embeddings = vision[0]
    inputs = {"pixel_values": pixels}
    expected = {"image_embeddings": embeddings, "image_pe": model.get_image_wide_positional_embeddings()}
    expected |= {f"block.{i}": h for i, h in enumerate(vision.hidden_states[1:])}
    predicted, targets = [], []
    for i, n in enumerate([2, 3] if seed == 0 else [0, 2]):
        resized, original = SIZES["resized"][seed][i], SIZES["original"][seed][i]
        text = torch.randn(n, d)
        inputs |= {f"text_embeds.{i}": text, f"input_size.{i}": torch.tensor(resized),
                   f"original_size.{i}": torch.tensor(original)}
        target = (torch.rand(n, *original) > 0.6).float()
        inputs[f"gt_masks.{i}"] = target
        if n == 0:
            low, iou = torch.zeros(0, 1, 4 * grid, 4 * grid), torch.zeros(0, 1)
        else:
            low, iou = decode_text(model, embeddings[i : i + 1], text)
        predicted.append(postprocess(low, side, resized, original) if n else torch.zeros(0, *original))
        targets.append(target)
        expected |= {f"low_res_masks.{i}": low, f"iou_predictions.{i}": iou, f"pred_masks.{i}": predicted[-1]}
    bce, dice = mask_losses(predicted, targets)
    expected |= {"mask_bce_loss": 2.0 * bce, "mask_dice_loss": 0.5 * dice}
    expected["mask_loss"] = expected["mask_bce_loss"] + expected["mask_dice_loss"]
    expected["mask_loss"].backward()
    facebook = facebook_weights(model)
    names = dict(model.named_parameters()) if seed == 0 else facebook
    expected |= {f"grad.{n}": p.grad for n, p in names.items() if p.grad is not None}
    weights = dict(names)
    if seed == 0:
        weights["shared_image_embedding.positional_embedding"] = model.shared_image_embedding.positional_embedding
        config = hf_config | {"model_type": "sam"}
    else:
        weights[GAUSSIAN] = model.shared_image_embedding.positional_embedding
        config = sizes | {"norm_eps": eps, "model_type": "sam"}
    write_case(name, config, weights, inputs, expected)

    # User prompts: points, boxes, both, each with one and with several masks, and mask inputs.
    with torch.no_grad():
        points = torch.rand(2, 3, 2, 2) * side
        labels = torch.tensor([[[1, 0], [1, 1], [0, 1]], [[0, 0], [1, -1], [1, 0]]])
        corner = torch.rand(2, 3, 2) * side / 2
        boxes = torch.cat([corner, corner + side / 3], -1)
        masks = torch.randn(2, 1, 4 * grid, 4 * grid)
        user = {"pixel_values": pixels, "input_points": points, "input_labels": labels, "input_boxes": boxes,
                "input_masks": masks}
        found = {}
        dense_mask = model.prompt_encoder(None, None, None, masks)[1]
        found["dense_embeddings.mask"] = dense_mask
        for kind, arguments in {"points": dict(input_points=points, input_labels=labels), "boxes": dict(input_boxes=boxes),
                                "points_boxes": dict(input_points=points, input_labels=labels, input_boxes=boxes)}.items():
            for many in (True, False):
                out = model(image_embeddings=embeddings.detach(), multimask_output=many, **arguments)
                tail = f"{kind}.{'multi' if many else 'single'}"
                found |= {f"low_res_masks.{tail}": out.pred_masks, f"iou_predictions.{tail}": out.iou_scores}
            full = dict(input_points=None, input_labels=None, input_boxes=None) | arguments
            found[f"sparse_embeddings.{kind}"] = model.prompt_encoder(
                input_points=full["input_points"], input_labels=full["input_labels"], input_boxes=full["input_boxes"],
                input_masks=None)[0]
    write_case(name + "_user", config, weights, user, found)
