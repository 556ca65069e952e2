"""tests/bench/engine.cpp beside PyTorch, all in one run, so that the ratios are of one machine at one time.

  python tests/bench/engine_compare.py --bench build/bench_engine [--workloads w1 w2 w3] [--rounds 2] [--steps 5]

Runs in turn, in every round: the engine on one rank of one thread and on two, transformers + PEFT in one process of two
threads, FSDP2 on two ranks of one thread and, where this Python has it, DeepSpeed. Prints the median over the rounds of
the median step times, and the aims: two ranks against one, against the single process, against the faster of the two
others. Everything competes for the same cores: run it on a machine that does nothing else.
"""

import argparse
import importlib.util
import os
import re
import statistics
import subprocess
import sys
from pathlib import Path

PYTHON_BENCH = Path(__file__).with_name("engine_python.py")


def commands(options, workload, checkpointing):
    mpi = ["mpirun", "--oversubscribe", "--bind-to", "none"]
    ours = [options.bench, "--workload", workload, "--steps", str(options.steps)]
    ours += ["--checkpointing", "true" if checkpointing else "false", *options.engine_flags]
    flags = ["--workload", workload, "--steps", str(options.steps)] + (["--checkpointing"] if checkpointing else [])
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", str(PYTHON_BENCH)]
    runs = {
        "engine, 1 rank": [*mpi, "-n", "1", *ours],
        "engine, 2 ranks": [*mpi, "-n", "2", *ours],
        "one process, 2 threads": [sys.executable, str(PYTHON_BENCH), "single", *flags],
        "FSDP2, 2 ranks": [*launch, "fsdp2", *flags],
    }
    if importlib.util.find_spec("deepspeed") is not None:
        runs["DeepSpeed, 2 ranks"] = [*launch, "deepspeed", *flags]
    return runs


def run(command):
    environment = dict(os.environ, OMP_NUM_THREADS="1", DS_BUILD_OPS="0", CUDA_VISIBLE_DEVICES="")
    environment.update(OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    found = re.search(r"step ([0-9.]+) s", done.stdout)
    peak = re.search(r"peak memory of a process ([0-9]+) MiB", done.stdout)
    # DeepSpeed now and then aborts while it ends, after it has reported.
    failed = done.returncode != 0 and "deepspeed" not in command
    if failed or not found or not peak:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{done.stdout}{done.stderr[-3000:]}")
    share = re.search(r"matrix products ([0-9]+) %", done.stdout)
    sent = re.search(r"gathered ([0-9.]+) MiB[^,]*, reduced ([0-9.]+) MiB", done.stdout)
    notes = f", matrix products {share.group(1)} %" if share else ""
    notes += f", gathers {sent.group(1)} and reduces {sent.group(2)} MiB" if sent else ""
    return float(found.group(1)), int(peak.group(1)), notes


def compare(options, workload, checkpointing):
    times, peaks, notes = {}, {}, {}
    for _ in range(options.rounds):
        for name, command in commands(options, workload, checkpointing).items():
            seconds, peak, note = run(command)
            print(f"{workload} {name}: {seconds} s, {peak} MiB", file=sys.stderr, flush=True)
            times.setdefault(name, []).append(seconds)
            peaks.setdefault(name, []).append(peak)
            notes[name] = note
    median = {name: statistics.median(values) for name, values in times.items()}
    print(f"{workload}, checkpointing {'on' if checkpointing else 'off'}")
    for name, seconds in median.items():
        print(f"  {name:<24} {seconds:7.3f} s, peak {max(peaks[name])} MiB a process{notes[name]}")
    two = median["engine, 2 ranks"]
    others = min(value for name, value in median.items() if name.startswith(("FSDP2", "DeepSpeed")))
    print(
        f"  two ranks: {2 * median['engine, 1 rank'] / two:.2f} x one rank (aim 1.6), "
        f"{median['one process, 2 threads'] / two:.2f} x the single process (aim 1.0), "
        f"{others / two:.2f} x the faster of the others (aim 1.3)",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", required=True, help="the program bench_engine")
    parser.add_argument("--workloads", nargs="+", choices=["w1", "w2", "w3"], default=["w1", "w2", "w3"])
    parser.add_argument("--checkpointing", nargs="+", choices=["on", "off"], default=["on", "off"])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--engine_flags", nargs="*", default=[], help="more flags of bench_engine, without their dashes")
    options = parser.parse_args()
    options.engine_flags = [f"--{flag}" for flag in options.engine_flags]
    for workload in options.workloads:
        for checkpointing in options.checkpointing:
            if workload == "w3" and checkpointing == "off":
                continue  # the workload is defined with checkpointing
            compare(options, workload, checkpointing == "on")


if __name__ == "__main__":
    main()
