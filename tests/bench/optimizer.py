"""Updates by the public optimisers on the sizes of tests/bench/optimizer.cpp: eight tensors of 2048 x 2048.

    OMP_NUM_THREADS=2 python tests/bench/optimizer.py       # bitsandbytes==0.50.2 where it is installed
"""

import statistics
import time

import torch


def measure(name, make):
    parameters = [torch.nn.Parameter(torch.zeros(2048, 2048)) for _ in range(8)]
    for p in parameters:
        p.grad = torch.rand_like(p) * 2 - 1
    optimizer = make(parameters)
    seconds = []
    for step in range(9):
        start = time.perf_counter()
        optimizer.step()
        if step >= 2:
            seconds.append(time.perf_counter() - start)
    print(f"{name:<24} {1e3 * statistics.median(seconds):7.2f} ms")


kind = dict(lr=1e-4, weight_decay=0.1)
measure("AdamW(fused=True)", lambda p: torch.optim.AdamW(p, fused=True, **kind))
measure("AdamW(foreach=True)", lambda p: torch.optim.AdamW(p, foreach=True, **kind))
measure("SGD(fused=True)", lambda p: torch.optim.SGD(p, fused=True, **kind))
measure("SGD, momentum, fused", lambda p: torch.optim.SGD(p, fused=True, momentum=0.9, **kind))
try:
    import bitsandbytes
except ImportError:
    bitsandbytes = None
if bitsandbytes:
    measure("bitsandbytes AdamW8bit", lambda p: bitsandbytes.optim.AdamW8bit(p, **kind))
    measure("bitsandbytes Lion", lambda p: bitsandbytes.optim.Lion(p, **kind))
