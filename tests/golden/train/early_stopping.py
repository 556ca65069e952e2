"""What transformers decides on values of validations: which is the best, and after which training stops.

    pip install transformers==4.57.6 torch==2.11.0
    python tests/golden/train/early_stopping.py     # writes data/early_stopping.json beside this file

EarlyStoppingCallback.on_evaluate comes before Trainer._determine_best_metric, as in Trainer._maybe_log_save_evaluate.
"""

import json
import pathlib
import random
from types import SimpleNamespace

import transformers
from transformers import EarlyStoppingCallback, Trainer, TrainerControl, TrainerState
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

assert transformers.__version__ == "4.57.6"


def decide(values, greater, patience, threshold):
    args = SimpleNamespace(metric_for_best_model="m", greater_is_better=greater, eval_strategy=IntervalStrategy.STEPS,
                           save_strategy=SaveStrategy.STEPS)
    state, control = TrainerState(), TrainerControl()
    callback = EarlyStoppingCallback(patience, threshold)
    trainer = SimpleNamespace(args=args, state=state)
    best, waited, stop = [], [], []
    for value in values:
        metrics = {"eval_m": value}
        callback.on_evaluate(args, state, control, metrics)
        best.append(Trainer._determine_best_metric(trainer, metrics, None))
        waited.append(callback.early_stopping_patience_counter)
        stop.append(control.should_training_stop)
    return {"greater": greater, "patience": patience, "threshold": threshold,
            "values": ["nan" if v != v else v for v in values], "best": best, "waited": waited, "stop": stop}


cases = []
draw = random.Random(5)
for greater in (True, False):
    for patience in (1, 2, 4):
        for threshold in (0.0, 0.05):
            values = [round(draw.uniform(0, 0.3) + 0.02 * i * (1 if greater else -1), 3) for i in range(12)]
            cases.append(decide(values, greater, patience, threshold))
    cases.append(decide([float("nan"), 0.5, float("nan"), 0.5, 0.6, 0.4], greater, 2, 0.0))
    cases.append(decide([0.5, 0.51, 0.52, 0.53, 0.6, 0.49, 0.48, 0.4], greater, 3, 0.02))
path = pathlib.Path(__file__).parent / "data" / "early_stopping.json"
path.write_text(json.dumps({"transformers": transformers.__version__, "cases": cases}) + "\n")
print(len(cases), "cases")
