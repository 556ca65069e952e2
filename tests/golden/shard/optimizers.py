"""Weights and states after some updates by the public optimisers, on gradients that a formula gives.

    pip install torch==2.11.0 numpy==2.2.6 safetensors bitsandbytes==0.50.2
    python tests/golden/shard/optimizers.py     # writes data/optimizers.safetensors beside this file

AdamW and SGD are torch's, Lion and AdamW8bit bitsandbytes'; clipping by value is torch.nn.utils.clip_grad_value_, the
average torch.optim.swa_utils.AveragedModel with get_ema_multi_avg_fn. As transformers' trainer has it, the embedding
keeps 32-bit states. bitsandbytes' native CPU kernel rounds each value to a grid of 65,536 before it looks for a code; its
portable path, which other types than its own take, finds the nearest code as its GPU kernels do, and is the one used.
"""

import pathlib

import bitsandbytes as bnb
import torch
from bitsandbytes.backends.cpu import ops as cpu_ops
from safetensors.torch import save_file
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

assert torch.__version__.startswith("2.11") and bnb.__version__ == "0.50.2"
torch.set_num_threads(1)
STEPS, RATE, DECAY, BETAS = 6, 0.01, 0.1, (0.9, 0.95)


def quantize(values, code, absmax_out, codes_out, blocksize):
    codes, absmax = torch.ops.bitsandbytes.quantize_blockwise(values.double(), code, blocksize)
    codes_out.copy_(codes)
    absmax_out.copy_(absmax)


cpu_ops._quant_blockwise_fp32_direct = quantize


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed_tokens = torch.nn.Embedding(64, 70)
        self.big = torch.nn.Linear(100, 45, bias=False)
        self.bias = torch.nn.Parameter(torch.empty(300))
        for index, parameter in enumerate(self.parameters()):
            parameter.data.copy_(formula(parameter.numel(), -1 - index).view_as(parameter))


def formula(count, step):
    """Exact in fp32: whole numbers over powers of two, of very different sizes; every 11th is zero."""
    k = torch.arange(count, dtype=torch.int64)
    whole = (k * 7919 + (step + 9) * 104729) % 2003 - 1001
    value = whole.float() / 512 * 2.0 ** -(k % 13).float()
    return torch.where(k % 11 == 3, torch.zeros(()), value)


def run(name, make, clip=None, average=False):
    model = Model()
    optimizer = make(model)
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.75)) if average else None
    for step in range(STEPS):
        for parameter in model.parameters():
            parameter.grad = formula(parameter.numel(), step).view_as(parameter).clone()
        if clip:
            torch.nn.utils.clip_grad_value_(model.parameters(), clip)
        optimizer.step()
        if averaged:
            averaged.update_parameters(model)
    names = {id(p): n for n, p in model.named_parameters()}
    for parameter in model.parameters():
        prefix = f"{name}.{names[id(parameter)]}"
        out[prefix] = parameter.detach().flatten().clone()
        state = optimizer.state[parameter]
        for key in ("state1", "state2", "absmax1", "absmax2"):
            if name == "adamw_8bit" and key in state:
                out[f"{prefix}.{key}"] = state[key].flatten().clone()
    if averaged:
        for n, parameter in averaged.module.named_parameters():
            out[f"{name}.{n}.average"] = parameter.detach().flatten().clone()


def eight_bit(model):
    manager = bnb.optim.GlobalOptimManager.get_instance()
    manager.override_config(model.embed_tokens.weight, "optim_bits", 32)
    optimizer = bnb.optim.AdamW8bit(model.parameters(), lr=RATE, betas=BETAS, weight_decay=DECAY)
    manager.register_parameters(model.parameters())
    return optimizer


out = {}
adamw = lambda m: torch.optim.AdamW(m.parameters(), lr=RATE, betas=BETAS, weight_decay=DECAY)  # noqa: E731
run("adamw", adamw)
run("adamw_clipped", adamw, clip=0.125)
run("adamw_average", adamw, average=True)
run("sgd", lambda m: torch.optim.SGD(m.parameters(), lr=RATE, weight_decay=DECAY))
run("momentum", lambda m: torch.optim.SGD(m.parameters(), lr=RATE, momentum=0.9, weight_decay=DECAY))
run("lion", lambda m: bnb.optim.Lion(m.parameters(), lr=RATE, betas=BETAS, weight_decay=DECAY))
run("adamw_8bit", eight_bit)
# Every value of the coded tensor; of the others one in 14, all sizes of gradients among them.
kept = {k: v if k.startswith("adamw_8bit.big") else v[::14].clone() for k, v in out.items()}
kept["code.with_sign"] = bnb.functional.create_dynamic_map(True)
kept["code.without_sign"] = bnb.functional.create_dynamic_map(False)
path = pathlib.Path(__file__).parent / "data" / "optimizers.safetensors"
save_file(kept, path, {"torch": torch.__version__, "bitsandbytes": bnb.__version__})
for key, value in kept.items():
    if "8bit" in key:
        print(key, value.dtype, tuple(value.shape))
print(path.stat().st_size, "bytes")
