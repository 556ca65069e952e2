"""transformers' SamModel at small sizes, facebook's names for its weights, and the reference's mask losses."""
import torch
import torch.nn.functional as F
from common import randomise
from transformers import SamConfig, SamModel

RENAMES = [
    ("prompt_encoder.mask_embed.conv1.", "prompt_encoder.mask_downscaling.0."),
    ("prompt_encoder.mask_embed.layer_norm1.", "prompt_encoder.mask_downscaling.1."),
    ("prompt_encoder.mask_embed.conv2.", "prompt_encoder.mask_downscaling.3."),
    ("prompt_encoder.mask_embed.layer_norm2.", "prompt_encoder.mask_downscaling.4."),
    ("prompt_encoder.mask_embed.conv3.", "prompt_encoder.mask_downscaling.6."),
    ("prompt_encoder.point_embed.", "prompt_encoder.point_embeddings."),
    ("vision_encoder.patch_embed.projection.", "image_encoder.patch_embed.proj."),
    ("vision_encoder.neck.conv1.", "image_encoder.neck.0."),
    ("vision_encoder.neck.layer_norm1.", "image_encoder.neck.1."),
    ("vision_encoder.neck.conv2.", "image_encoder.neck.2."),
    ("vision_encoder.neck.layer_norm2.", "image_encoder.neck.3."),
    ("vision_encoder.layers.", "image_encoder.blocks."),
    ("vision_encoder.", "image_encoder."),
    ("mask_decoder.upscale_conv1.", "mask_decoder.output_upscaling.0."),
    ("mask_decoder.upscale_layer_norm.", "mask_decoder.output_upscaling.1."),
    ("mask_decoder.upscale_conv2.", "mask_decoder.output_upscaling.3."),
    (".layer_norm_final_attn.", ".norm_final_attn."),
]


def facebook_name(name):
    for old, new in RENAMES:
        if old in name:
            name = name.replace(old, new)
    if ".layer_norm" in name:
        if name.startswith("image_encoder") or "transformer.layers" in name:
            name = name.replace(".layer_norm", ".norm")
    return name


def facebook_weights(model):
    """All weights and the Gaussian matrix under facebook's names."""
    named = {}
    for name, p in model.named_parameters():
        if "hypernetworks" in name or "iou_prediction_head" in name:
            middle = (model.config.mask_decoder_config.iou_head_depth if "iou" in name else 3) - 2
            if ".proj_in." in name:
                new = name.replace(".proj_in.", ".layers.0.")
            elif ".proj_out." in name:
                new = name.replace(".proj_out.", f".layers.{middle + 1}.")
            else:
                before, after = name.split(".layers.")
                index, rest = after.split(".", 1)
                new = f"{before}.layers.{int(index) + 1}.{rest}"
        else:
            new = facebook_name(name)
        named[new] = p
    return named


GAUSSIAN = "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"


def build_sam(sizes, norm_eps, seed, std=0.15):
    """sizes: our sam_config's keys."""
    vision = dict(hidden_size=sizes["embed_dim"], output_channels=sizes["prompt_embed_dim"],
                  num_hidden_layers=sizes["depth"], num_attention_heads=sizes["num_heads"],
                  image_size=sizes["image_size"], patch_size=sizes["patch_size"], mlp_ratio=sizes["mlp_ratio"],
                  mlp_dim=int(sizes["embed_dim"] * sizes["mlp_ratio"]), window_size=sizes["window_size"],
                  global_attn_indexes=sizes["global_attn_indexes"], num_pos_feats=sizes["prompt_embed_dim"] // 2)
    prompt = dict(hidden_size=sizes["prompt_embed_dim"], image_size=sizes["image_size"],
                  patch_size=sizes["patch_size"], mask_input_channels=sizes["mask_in_chans"])
    decoder = dict(hidden_size=sizes["prompt_embed_dim"], mlp_dim=sizes["decoder_mlp_dim"],
                   num_hidden_layers=sizes["decoder_depth"], num_attention_heads=sizes["decoder_num_heads"],
                   num_multimask_outputs=sizes["num_multimask_outputs"], iou_head_depth=sizes["iou_head_depth"],
                   iou_head_hidden_dim=sizes["iou_head_hidden_dim"], layer_norm_eps=norm_eps)
    config = SamConfig(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder)
    config._attn_implementation = "eager"
    model = SamModel(config)
    randomise(model, std, seed)
    gaussian = torch.randn(2, sizes["prompt_embed_dim"] // 2, generator=torch.Generator().manual_seed(seed + 1))
    with torch.no_grad():
        model.shared_image_embedding.positional_embedding.copy_(gaussian)
        model.prompt_encoder.shared_embedding.positional_embedding.copy_(gaussian)
    model.eval()
    return model, {"vision_config": vision, "prompt_encoder_config": prompt, "mask_decoder_config": decoder}


def decode_text(model, image_embedding, text):
    """image_embedding [1,D,h,w], text [n,D] to low-resolution masks [n,1,4h,4w] and scores [n,1]."""
    n, d = text.shape
    h, w = image_embedding.shape[-2:]
    dense = model.prompt_encoder.no_mask_embed.weight.reshape(1, d, 1, 1).expand(1, d, h, w)
    masks, iou = model.mask_decoder(image_embeddings=image_embedding,
                                    image_positional_embeddings=model.get_image_wide_positional_embeddings(),
                                    sparse_prompt_embeddings=text.reshape(1, n, 1, d),
                                    dense_prompt_embeddings=dense, multimask_output=False)[:2]
    return masks.reshape(n, 1, 4 * h, 4 * w), iou.reshape(n, 1)


def postprocess(masks, size, resized, original):
    masks = F.interpolate(masks.float(), (size, size), mode="bilinear", align_corners=False)
    masks = masks[..., : resized[0], : resized[1]]
    return F.interpolate(masks, tuple(original), mode="bilinear", align_corners=False)[:, 0]


def mask_losses(pred, target):
    """LISA's, for lists over images; without weights."""
    bce_total, dice_total, count = 0.0, 0.0, 0
    for p, t in zip(pred, target):
        n = p.shape[0]
        bce = F.binary_cross_entropy_with_logits(p, t, reduction="none").flatten(1, 2).mean(1).sum() / (n + 1e-8)
        s = p.sigmoid().flatten(1, 2)
        f = t.flatten(1, 2)
        overlap = 2 * (s / 1000 * f).sum(-1)
        whole = (s / 1000).sum(-1) + (f / 1000).sum(-1)
        dice = (1 - (overlap + 1e-6) / (whole + 1e-6)).sum() / (n + 1e-8)
        bce_total = bce_total + bce * n
        dice_total = dice_total + dice * n
        count += n
    return bce_total / (count + 1e-8), dice_total / (count + 1e-8)
