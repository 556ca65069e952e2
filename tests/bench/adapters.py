"""tests/bench/adapters.cpp beside PEFT: one adapted linear layer, forward and backward, in turn on the same cores.

  python tests/bench/adapters.py --bench build/bench_adapters [--rounds 3] [--threads 2] [--device cuda]

Prints, for each size, the medians over the rounds of the median times, PEFT's time in ours, and the bytes that each
keeps for backward beside input, output and weights. fp32, no dropout, input with a gradient. Needs torch and peft
(launch/requirements). Everything competes for the same cores: run it on a machine that does nothing else.
"""

import argparse
import os
import re
import statistics
import subprocess
import time

CASES = [  # kind, rows, in, out, rank
    ("lora", 512, 512, 512, 8),
    ("lora", 2048, 1024, 1024, 16),
    ("lora", 1024, 2048, 5504, 8),
    ("lora", 1024, 4096, 4096, 64),
    ("lora", 64, 4096, 4096, 8),
    ("dora", 1024, 1024, 1024, 16),
    ("adalora", 1024, 1024, 1024, 12),
]


def ours(options, case):
    kind, rows, size_in, size_out, rank = case
    command = [options.bench, "--kind", kind, "--rows", rows, "--in", size_in, "--out", size_out, "--rank", rank,
               "--seconds", options.seconds, "--device", options.device]
    environment = dict(os.environ, OMP_NUM_THREADS=str(options.threads))
    text = subprocess.run([str(c) for c in command], env=environment, capture_output=True, text=True, check=True).stdout
    found = re.match(r"([0-9.]+) ms .*, (\d+) bytes kept", text)
    return float(found.group(1)), int(found.group(2))


def peft_layer(case):
    import torch
    from peft import AdaLoraConfig, LoraConfig, get_peft_model

    kind, _, size_in, size_out, rank = case
    base = torch.nn.ModuleDict({"layer": torch.nn.Linear(size_in, size_out, bias=False)})
    common = dict(target_modules=["layer"], lora_alpha=16, lora_dropout=0.0, init_lora_weights=False)
    config = (AdaLoraConfig(init_r=rank, target_r=rank, total_step=1, **common) if kind == "adalora"
              else LoraConfig(r=rank, use_dora=kind == "dora", **common))
    return get_peft_model(base, config).base_model.model["layer"].train()


def kept_bytes(layer, x):
    import torch

    weights = {p.untyped_storage().data_ptr() for p in layer.parameters()} | {x.untyped_storage().data_ptr()}
    kept = {}

    def pack(t):
        storage = t.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        y = layer(x)
    kept.pop(y.untyped_storage().data_ptr(), None)
    return sum(kept.values())


def theirs(options, case):
    import torch

    torch.set_num_threads(options.threads)
    wait = torch.cuda.synchronize if options.device == "cuda" else lambda: None
    layer = peft_layer(case).to(options.device)
    x = torch.randn(case[1], case[2], device=options.device, requires_grad=True)
    gradient = torch.randn(case[1], case[3], device=options.device)
    kept = kept_bytes(layer, x)
    layer(x).backward(gradient)  # warms up
    times, start = [], time.perf_counter()
    while len(times) < 5 or time.perf_counter() - start < options.seconds:
        wait()
        begin = time.perf_counter()
        layer(x).backward(gradient)
        wait()
        times.append(time.perf_counter() - begin)
        x.grad = None
        layer.zero_grad(set_to_none=True)
    return 1e3 * statistics.median(times), kept


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", required=True, help="the program bench_adapters")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement")
    options = parser.parse_args()
    print("kind     rows    in   out rank |   ours ms   PEFT ms  ratio |  ours kept  PEFT kept bytes")
    for case in CASES:
        rounds = [(ours(options, case), theirs(options, case)) for _ in range(options.rounds)]
        mine, peft = (statistics.median(r[i][0] for r in rounds) for i in (0, 1))
        kept_mine, kept_peft = rounds[0][0][1], rounds[0][1][1]
        print("{:<8}{:>5}{:>6}{:>6}{:>5} |".format(*case),
              f"{mine:9.3f} {peft:9.3f} {peft / mine:6.2f} | {kept_mine:10} {kept_peft:10}", flush=True)


if __name__ == "__main__":
    main()
