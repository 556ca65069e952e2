"""Weights packed by bitsandbytes on the CPU: its bytes, its scales, and the values that come back.

Made with torch 2.11.0 (CPU), bitsandbytes 0.50.2, safetensors 0.7.0, one thread. Run: python quantize.py
Writes data/quantize.safetensors beside this script. Keys are `<case>.<what>`: `values` F32 in; per type `nf4`, `fp4`:
`packed`, `absmax`, `back`; of the double quantisation of nf4 `codes`, `absmax2`, `mean`, `nested_back`; of matrices
`int8.values`, `int8.scales`, `int8.back`. `code` is the 8-bit code.
"""
import pathlib

import bitsandbytes.functional as bnb
import torch
from safetensors.torch import save_file

torch.set_num_threads(1)
generator = torch.Generator().manual_seed(11)


def noise(*shape):
    return torch.randn(*shape, generator=generator)


def ties():
    """Blocks of absmax 1 with every middle between two codes, and its neighbours, in nf4 and fp4."""
    values = []
    for kind in ("nf4", "fp4"):
        code = torch.sort(bnb.get_4bit_type(kind, device="cpu")).values
        middle = (code[:-1] + code[1:]) / 2
        values.append(torch.cat([torch.ones(1), middle, torch.nextafter(middle, torch.full_like(middle, 2.0)),
                                 torch.nextafter(middle, torch.full_like(middle, -2.0)), torch.zeros(18)]))
    return torch.cat(values)


def extremes():
    values = noise(200)
    values[:64] = 0
    values[70] = 3e38
    values[130:140] *= 1e-39
    values[192:] = 0
    return values


cases = {"one": noise(1), "seven": noise(7), "short": noise(63), "block": noise(64), "more": noise(65),
         "odd": noise(129), "ties": ties(), "extremes": extremes(), "matrix": noise(33, 70) * 0.02,
         "uneven": noise(67, 259) * torch.rand(67, 1, generator=generator)}
out = {"code": bnb.create_dynamic_map()}
for name, values in cases.items():
    out[f"{name}.values"] = values.clone()
    for kind in ("nf4", "fp4"):
        packed, state = bnb.quantize_4bit(values, quant_type=kind)
        out[f"{name}.{kind}.packed"] = packed.flatten()
        out[f"{name}.{kind}.absmax"] = state.absmax
        if name != "uneven":
            out[f"{name}.{kind}.back"] = bnb.dequantize_4bit(packed, state).flatten()
    packed, state = bnb.quantize_4bit(values, quant_type="nf4", compress_statistics=True)
    out[f"{name}.codes"] = state.absmax
    out[f"{name}.absmax2"] = state.state2.absmax
    out[f"{name}.mean"] = state.offset.reshape(1)
    out[f"{name}.nested_back"] = bnb.dequantize_4bit(packed, state).flatten()
    if values.dim() == 2:
        quantised, scales, _ = bnb.int8_vectorwise_quant(values.to(torch.float16))
        out[f"{name}.int8.values"] = quantised
        out[f"{name}.int8.scales"] = scales
        if name != "uneven":
            out[f"{name}.int8.back"] = bnb.int8_vectorwise_dequant(quantised, scales).flatten()
data = pathlib.Path(__file__).parent / "data"
data.mkdir(exist_ok=True)
save_file({k: v.contiguous() for k, v in out.items()}, data / "quantize.safetensors")
