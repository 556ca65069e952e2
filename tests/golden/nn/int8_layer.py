"""bitsandbytes' Linear8bitLt on a CPU in evaluation, where it quantises its input as it does on a GPU.

Made with torch 2.11.0 (CPU), bitsandbytes 0.50.2, safetensors 0.7.0; set TORCHDYNAMO_DISABLE=1. Run: python int8_layer.py
Writes data/int8_layer.safetensors beside this script. Keys are `<case>.<what>`: `x`, `weight` (the values that the codes
stand for), `bias` where there is one, `threshold`, `g` the gradient of the output `y`, and `x_grad`.
"""
import logging
import pathlib

import bitsandbytes as bnb
import torch
from safetensors.torch import save_file

torch.set_num_threads(1)
logging.disable(logging.WARNING)
generator = torch.Generator().manual_seed(3)


def noise(*shape):
    return torch.randn(*shape, generator=generator)


def planted(x, columns, value):
    """Outliers in some row of each column, and smaller values above the other ones in the same columns."""
    rows = x.view(-1, x.shape[-1])
    for i, column in enumerate(columns):
        rows[i % rows.shape[0], column] = value * (-1) ** i
        rows[(i + 1) % rows.shape[0], column] = 0.9 * value / 2
    return x


CASES = {
    "outliers": (planted(noise(3, 5, 37), (0, 11, 36), 9.5), 23, False, 6.0),
    "outliers_and_bias": (planted(noise(7, 64), (5,), -60.0), 19, True, 6.0),
    "at_the_threshold": (planted(noise(4, 30), (3, 4), 2.5), 8, False, 2.5),
    "no_outliers": (noise(2, 4, 33) * 0.7, 12, True, 6.0),
    "all_columns": (noise(6, 9) + 20, 5, False, 6.0),
    "one_row": (planted(noise(1, 40), (2,), 8.0), 11, False, 6.0),
    "rows_of_zeros": (noise(5, 26) * torch.tensor([1.0, 0, 1, 0, 0])[:, None], 10, False, 6.0),
    "beyond_fp16": (planted(noise(3, 21), (7,), 1e6), 6, False, 6.0),
    "threshold_zero": (planted(noise(2, 6, 35), (1, 20), 40.0), 17, True, 0.0),
}
out = {}
for name, (x, outputs, bias, threshold) in CASES.items():
    layer = bnb.nn.Linear8bitLt(x.shape[-1], outputs, bias=bias, has_fp16_weights=False, threshold=threshold)
    layer.weight = bnb.nn.Int8Params(noise(outputs, x.shape[-1]), requires_grad=False, has_fp16_weights=False)
    if bias:
        layer.bias = torch.nn.Parameter(noise(outputs), requires_grad=False)
    layer = layer.to("cpu").eval()
    x = x.clone().requires_grad_()
    y = layer(x)
    g = noise(*y.shape)
    y.backward(g)
    weight = bnb.functional.int8_vectorwise_dequant(layer.state.CB, layer.state.SCB)
    case = {"x": x, "weight": weight, "threshold": torch.tensor([threshold]), "g": g, "y": y, "x_grad": x.grad}
    if bias:
        case["bias"] = layer.bias
    out |= {f"{name}.{what}": value.detach().clone().contiguous() for what, value in case.items()}
save_file(out, pathlib.Path(__file__).parent / "data" / "int8_layer.safetensors")
