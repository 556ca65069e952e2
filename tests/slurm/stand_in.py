#!/usr/bin/env python3
"""Stands in for tessera where the batch script itself is tested: `stand_in.py train [flags] --resume auto`.

Every rank leaves what it was given. With --await_signal it stays until USR1, leaves a checkpoint and exits with 75, as
tessera does; started again, it finds the checkpoint and ends with 0. --exit_status N ends with N.
"""
import argparse
import json
import os
import signal
import sys
import time
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument("verb", choices=["train"])
parser.add_argument("--out", type=Path, required=True)
parser.add_argument("--resume")
parser.add_argument("--await_signal", action="store_true")
parser.add_argument("--exit_status", type=int, default=0)
flags = parser.parse_args()

rank, world = os.environ["OMPI_COMM_WORLD_RANK"], int(os.environ["OMPI_COMM_WORLD_SIZE"])
checkpoint = flags.out / f"checkpoint.{rank}"
told = []
signal.signal(signal.SIGUSR1, lambda *_: told.append(1))
start = "resumed" if flags.resume == "auto" and checkpoint.exists() else "first"
(flags.out / f"{start}.{rank}.json").write_text(json.dumps({
    "world": world, "threads": os.environ.get("OMP_NUM_THREADS"), "nccl_debug": os.environ.get("NCCL_DEBUG"),
    "resume": flags.resume, "restarts": os.environ.get("SLURM_RESTART_COUNT", "0")}))


def until(condition):
    end = time.monotonic() + 60
    while not condition():
        if time.monotonic() > end:
            sys.exit(1)
        time.sleep(0.02)


if flags.await_signal and start == "first":
    until(lambda: told)
    checkpoint.write_text("step 1")
    until(lambda: len(list(flags.out.glob("checkpoint.*"))) == world)
    sys.exit(75)
sys.exit(flags.exit_status)
