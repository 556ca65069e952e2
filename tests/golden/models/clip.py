"""CLIP vision goldens by transformers' CLIPVisionModel (eager attention). See common.py for the pinned versions."""
import torch
from common import randomise, write_case
from transformers import CLIPVisionConfig, CLIPVisionModel

CASES = {
    "clip_28px": dict(hidden_size=24, intermediate_size=56, num_hidden_layers=3, num_attention_heads=3, image_size=28,
                      patch_size=7, hidden_act="quick_gelu", layer_norm_eps=1e-5),
    "clip_30px_gelu": dict(hidden_size=20, intermediate_size=44, num_hidden_layers=4, num_attention_heads=2,
                           image_size=30, patch_size=10, hidden_act="gelu", layer_norm_eps=1e-6),
    # Pixels beyond the last whole patch are not seen.
    "clip_31px_patch_6": dict(hidden_size=18, intermediate_size=30, num_hidden_layers=5, num_attention_heads=3,
                              image_size=31, patch_size=6, hidden_act="quick_gelu", layer_norm_eps=1e-5),
}
SELECT_LAYERS = {"clip_31px_patch_6": 2}  # the others: -2

for seed, (name, settings) in enumerate(CASES.items()):
    torch.manual_seed(10 + seed)
    config = CLIPVisionConfig(**settings, attn_implementation="eager")
    model = CLIPVisionModel(config)
    randomise(model, 0.2, 10 + seed)
    pixels = torch.randn(2, 3, config.image_size, config.image_size)
    out = model(pixel_values=pixels, output_hidden_states=True)
    selected = out.hidden_states[SELECT_LAYERS.get(name, -2)]
    cotangent = torch.randn_like(selected)
    loss = (cotangent * selected).sum()
    loss.backward()
    expected = {"last_hidden_state": out.last_hidden_state, "pooler_output": out.pooler_output,
                "selected.cls_patch": selected, "selected.patch": selected[:, 1:], "loss": loss}
    expected |= {f"hidden_states.{i}": h for i, h in enumerate(out.hidden_states)}
    expected |= {f"grad.{n}": p.grad for n, p in model.named_parameters() if p.grad is not None}
    write_case(name, settings | {"model_type": "clip_vision_model"}, dict(model.named_parameters()),
               {"pixel_values": pixels, "cotangent": cotangent}, expected)
