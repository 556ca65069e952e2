"""FastViTHD goldens, each network in both forms. Apple's by apple/ml-fastvlm's own source (commit 592b4ad), timm's by
timm 1.0.22 (create_model "fastvit_mci3" with small sizes); torch 2.11.0, safetensors as in common.py.

    python fastvit.py PATH/TO/ml-fastvlm

Weights, statistics of the batch norms and layer scales are random, so that no branch cancels another. The form as
trained runs in eval mode. The folded form is what the package itself makes of the other (reparameterize). Everything is
computed in fp64 and stored in fp32: sums of branches are badly conditioned in fp32.
"""
import copy
import importlib.util
import pathlib
import sys
from functools import partial

import timm
import torch
from common import write_case


def load_apple(checkout):
    path = pathlib.Path(checkout) / "llava/model/multimodal_encoder/mobileclip/mci.py"
    spec = importlib.util.spec_from_file_location("mci", path)
    module = sys.modules["mci"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def randomise(model, seed):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda shape: torch.randn(shape, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        for name, value in sorted(model.state_dict().items()):
            if "num_batches" in name:
                continue
            if name.endswith("running_var"):
                value.copy_(0.4 + draw(value.shape).abs())
            elif value.dim() == 1 and name.endswith("weight"):
                value.copy_(1 + 0.2 * draw(value.shape))
            elif "layer_scale" in name:
                value.copy_(0.4 + 0.2 * draw(value.shape))
            elif value.dim() >= 2:
                value.copy_(draw(value.shape) * value[0].numel() ** -0.5)
            else:
                value.copy_(0.2 * draw(value.shape))
            value.copy_(value.float())  # what the file holds


def folded(model):
    model = copy.deepcopy(model)
    with torch.no_grad():
        for module in list(model.modules()):
            if hasattr(module, "reparameterize"):
                module.reparameterize()
        for value in model.parameters():
            value.requires_grad_(True)
            value.copy_(value.float())
    return model.double().eval()


def write(name, config, model, features, prefix, pixels, cotangent, unused):
    """features: of the model, [N,C,h,w]. unused: parts that are in no file here."""
    model.zero_grad()
    out = features(model, pixels)
    tokens = out.flatten(2).transpose(1, 2)
    loss = (tokens * cotangent).sum()
    loss.backward()
    weights = {prefix + n: v for n, v in model.state_dict().items() if not n.startswith(unused)}
    expected = {"feature_map": out, "image_features": tokens, "loss": loss}
    expected |= {f"grad.{prefix}{n}": p.grad for n, p in model.named_parameters() if p.grad is not None}
    narrow = lambda tensors: {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}
    write_case(name, config, narrow(weights), {"pixel_values": pixels.float(), "cotangent": cotangent.float()},
               narrow(expected))


def both_forms(name, config, with_form, model, features, prefix, size, seed, unused=("head.fc",)):
    model = model.double().eval()
    randomise(model, seed)
    torch.manual_seed(seed)
    pixels = torch.rand(2, 3, *size, dtype=torch.float64).float().double()
    with torch.no_grad():
        shape = features(model, pixels).flatten(2).transpose(1, 2).shape
    cotangent = (0.02 * torch.randn(shape, dtype=torch.float64)).float().double()
    small = folded(model)
    assert torch.allclose(features(model, pixels), features(small, pixels), rtol=1e-4, atol=1e-5)
    write(f"{name}_branches", with_form(config, False), model, features, prefix, pixels, cotangent, unused)
    write(f"{name}_folded", with_form(config, True), small, features, prefix, pixels, cotangent, unused)


# --- Apple's: widths that are odd where there is no attention ---
POSITIONED = [None, None, None, True]
SIZES = {"layers": [2, 1, 1, 1], "embed_dims": [3, 9, 9, 27], "mlp_ratios": [3, 2, 1, 1],
         "token_mixers": ["repmixer"] * 4}
# The second size: five stages, the last with attention of two heads.
TWO_HEADS = {"layers": [1, 1, 2, 1, 1], "embed_dims": [2, 4, 4, 8, 64], "mlp_ratios": [2, 1.5, 1, 2, 0.5],
             "token_mixers": ["repmixer"] * 4 + ["attention"]}


def apple_form(config, inference):
    return {"embed_dim": 5, "image_cfg": dict(config, model_name="fastvithd", inference_mode=inference)}


def apple_network(apple, sizes, projection, stem_scale_branch, positioned=POSITIONED):
    """positioned: the stages that begin with positions. The head is Apple's projection, which no feature depends on."""
    positions = [at and partial(apple.RepCPE, spatial_shape=(7, 7)) for at in positioned]
    model = apple.FastViT(**sizes, pos_embs=positions, downsamples=[True] * len(positions),
                          norm_layer=apple.LayerNormChannel, stem_scale_branch=stem_scale_branch, num_classes=7)
    model.head = apple.GlobalPool2D(2 * sizes["embed_dims"][-1], projection)
    return model


def apple_features(model, pixels):
    return model(pixels, return_image_embeddings=True)["image_embeddings"]

# --- timm's: five stages, the last two with attention; four, the last with attention of two heads ---
ARGS = {"layers": [1, 1, 1, 1, 1], "embed_dims": [2, 4, 8, 32, 32], "mlp_ratios": [3, 2, 1.5, 1, 1]}
FOUR_STAGES = {"layers": [1, 1, 2, 1], "embed_dims": [1, 4, 8, 64], "mlp_ratios": [3, 2, 1.5, 0.5]}


def timm_form(config, inference):
    return {"architecture": "fastvit_mci3", "model_args": dict(config, inference_mode=inference)}


def timm_features(model, pixels):
    return model.forward_features(pixels)


if __name__ == "__main__":
    apple = load_apple(sys.argv[1])
    settings = SIZES | {"pos_embs": POSITIONED, "stem_scale_branch": True, "image_size": 45}
    both_forms("fastvit_apple", settings, apple_form, apple_network(apple, SIZES, 5, True), apple_features, "model.",
               (45, 38), 401, unused=("no",))
    both_forms("fastvit_timm", ARGS, timm_form, timm.create_model("fastvit_mci3", num_classes=0, **ARGS), timm_features,
               "", (67, 35), 402)
    positioned = [None, True, None, None, True]
    settings = TWO_HEADS | {"pos_embs": positioned, "stem_scale_branch": False, "image_size": 66}
    both_forms("fastvit_apple_two_heads", settings, apple_form, apple_network(apple, TWO_HEADS, 5, False, positioned),
               apple_features, "model.", (66, 40), 403, unused=("no",))
    both_forms("fastvit_timm_two_heads", FOUR_STAGES, timm_form,
               timm.create_model("fastvit_mci3", num_classes=0, **FOUR_STAGES), timm_features, "", (41, 66), 404)
