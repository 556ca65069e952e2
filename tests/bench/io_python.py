"""Beside bench_io: safetensors' or torch's own loading of the same file, median of 9. python io_python.py FILE"""
import pathlib
import sys
import time

import torch
from safetensors.torch import load_file

torch.set_num_threads(1)
path = pathlib.Path(sys.argv[1])
ways = {"safetensors load_file, copied": lambda: [t.clone() for t in load_file(path).values()]}
if path.suffix != ".safetensors":
    ways = {"torch.load": lambda: torch.load(path, weights_only=True)}
for name, load in ways.items():
    load()
    seconds = []
    for _ in range(9):
        start = time.perf_counter()
        load()
        seconds.append(time.perf_counter() - start)
    median = sorted(seconds)[4]
    print(f"{name}: {1e3 * median:.2f} ms, {path.stat().st_size / median / 1e9:.2f} GB/s")
