"""Factors on the learning rate, step by step, by the public schedules.

    pip install torch==2.11.0 transformers==4.57.6
    pip download deepspeed==0.19.8 --no-deps --no-build-isolation && tar xf deepspeed-0.19.8.tar.gz
    python tests/golden/train/schedules.py deepspeed-0.19.8     # writes data/schedules.json beside this file

The rate of each optimiser step is read before the step, as a trainer does that steps the optimiser, then the schedule.
DeepSpeed's engine steps its schedule behind the optimiser too, and its file is read alone: the package needs a compiler.
"""

import importlib.util
import json
import logging
import pathlib
import sys
import types

import torch
import transformers
from transformers import get_scheduler

assert transformers.__version__ == "4.57.6"
RATE = 2.0 ** -6  # a power of two: dividing by it is exact


def rates(steps, make):
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=RATE)
    schedule = make(optimizer)
    out = []
    for _ in range(steps):
        out.append(optimizer.param_groups[0]["lr"] / RATE)
        optimizer.step()
        schedule.step()
    return out


def deepspeed_schedules(folder):
    utils = types.ModuleType("deepspeed.utils")
    utils.logger = logging.getLogger("deepspeed")
    utils.logger.setLevel(logging.ERROR)
    sys.modules["deepspeed"], sys.modules["deepspeed.utils"] = types.ModuleType("deepspeed"), utils
    spec = importlib.util.spec_from_file_location("lr_schedules", folder / "deepspeed/runtime/lr_schedules.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


cases = []
for warmup, total in ((0, 20), (1, 17), (5, 30), (13, 25)):
    for kind, extra in (("constant", {}), ("constant_with_warmup", {}), ("linear", {}), ("cosine", {}),
                        ("inverse_sqrt", {}), ("polynomial", {"power": 1.0, "lr_end": RATE * 0.125}),
                        ("polynomial", {"power": 2.0, "lr_end": RATE * 0.0625})):
        make = lambda o: get_scheduler(kind, o, warmup, total, scheduler_specific_kwargs=extra)  # noqa: B023, E731
        cases.append({"kind": kind, "warmup_steps": warmup, "total_steps": total, "power": extra.get("power", 1.0),
                      "end": extra.get("lr_end", 0.0) / RATE, "factors": rates(total + 1, make)})
lr = deepspeed_schedules(pathlib.Path(sys.argv[1]))
for warmup, total in ((1, 17), (2, 6), (5, 30), (13, 25)):
    for ramp, suffix in (("linear", ""), ("log", "_log")):
        for kind, end, make in (
            ("warmup_decay", 0.0, lambda o: lr.WarmupDecayLR(o, total, 0.0, RATE, warmup, ramp)),  # noqa: B023
            ("warmup", 0.0, lambda o: lr.WarmupLR(o, 0.0, RATE, warmup, ramp)),  # noqa: B023
            ("warmup_cosine", 0.125, lambda o: lr.WarmupCosineLR(o, total, 0.0, warmup, 0.125, ramp)),  # noqa: B023
        ):
            cases.append({"kind": kind + suffix, "warmup_steps": warmup, "total_steps": total, "power": 1.0, "end": end,
                          "factors": rates(total + 1, make)})
path = pathlib.Path(__file__).parent / "data" / "schedules.json"
path.write_text(json.dumps({"transformers": transformers.__version__, "deepspeed": "0.19.8", "cases": cases}) + "\n")
print(len(cases), "cases,", path.stat().st_size, "bytes")
