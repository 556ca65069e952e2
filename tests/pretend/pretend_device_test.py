"""The program on a device that is not the CPU (pretend_device.hpp) computes what it computes on the CPU: the paths that
GPUs take, on a machine without one. The two may differ by rounding, for a device has its own forms of some operations.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

SOURCE = pathlib.Path(os.environ["TESSERA_SOURCE_DIR"])
sys.path.insert(0, str(SOURCE / "tests/cli/flags"))
from toy import Toy  # noqa: E402

PRETEND = os.environ["TESSERA_PRETEND"]
LOSSES = ("loss", "ce_loss", "mask_bce_loss", "mask_dice_loss", "grad_norm")
RUNS = (
    ("lisa", "placement world offload_optimizer true offload_frozen true recompute all layer_major 2 ema_decay 0.9"),
    ("lisa", "quantize nf4 double_quant true optim adamw_8bit lora_dropout 0.2"),
    ("lisa", "quantize int8 llm_int8_threshold 1.5 placement world num_virtual_tokens 3 use_dora true"),
    ("lisa", "peft_type adalora init_r 4 target_r 2 reproducible false"),
    ("llava", "lora_enable true lora_r 4 neftune_noise_alpha 5 label_smoothing_factor 0.1 mm_projector_lr 0.01"),
    ("llava", "unfreeze_mm_vision_tower true mm_vision_tower_lr 0.001 offload_optimizer true"),
)


def flags_of(text):
    words = text.split()
    return [w if i % 2 else f"--{w}" for i, w in enumerate(words)]


def run(toy, program, ranks, kind, flags):
    folder, (_, *arguments) = toy.arguments("train", kind, flags)
    environment = dict(os.environ, OMP_NUM_THREADS="1", OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
    command = ["mpirun", "--oversubscribe", "--bind-to", "none", "-n", str(ranks), program, *arguments]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, f"{program} {kind} {flags}\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k in LOSSES} for line in lines if '"loss"' in line]


def compare(toy, kind, flags):
    wanted = run(toy, os.environ["TESSERA_PROGRAM"], 1, kind, flags)
    found = run(toy, PRETEND, 2, kind, flags)
    assert len(wanted) == len(found) == 2, (kind, flags, wanted, found)
    most = 0.0
    for one, other in zip(wanted, found):
        assert one.keys() == other.keys()
        for key, value in one.items():
            most = max(most, abs(value - other[key]) / max(abs(value), 1e-3))
    print(f"{kind} {' '.join(flags)}: at most {most:.1e} apart", flush=True)
    assert most < 2e-5, (wanted, found)


def main(root):
    toy = Toy(root)
    for kind, text in RUNS:
        compare(toy, kind, flags_of(text) + ["--batch_size", "1", "--global_batch_size", "4", "--max_steps", "2"])
    print("ok")


with tempfile.TemporaryDirectory() as name:
    main(pathlib.Path(name))
