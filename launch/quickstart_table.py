#!/usr/bin/env python3
"""Print the quickstart's table from the figures `tessera eval --output` left, and check them against the aims."""
import json
import sys
from pathlib import Path

runs = Path(sys.argv[1])


def figures(stage: str, questions: str) -> dict:
    return json.loads((runs / f"{stage}-{questions}.json").read_text())


rows = [("answers with the mean training mask", "before", "baseline"), ("before training (random weights)", "before", None),
        ("after stage one (everything trained)", "stage1", None), ("after LoRA (base frozen)", "stage2", None)]

print(f"\n{'held-out scenes':40}{'names an object':>20}{'describes it':>20}")
print(f"{'':40}{'gIoU':>10}{'cIoU':>10}{'gIoU':>10}{'cIoU':>10}")
for label, stage, part in rows:
    line = f"{label:40}"
    for questions in ("names", "describe"):
        result = figures(stage, questions)
        result = result[part] if part else result
        line += f"{result['giou']:10.3f}{result['ciou']:10.3f}"
    print(line)

stage1 = figures("stage1", "names")["giou"]
baseline = figures("before", "names")["baseline"]["giou"]
gain = figures("stage2", "describe")["giou"] - figures("stage1", "describe")["giou"]
print(f"\nstage one: gIoU {stage1:.3f}, {stage1 / max(baseline, 1e-9):.1f} times the baseline's {baseline:.3f}")
print(f"LoRA: {gain:+.3f} gIoU on questions that stage one had not seen\n")
