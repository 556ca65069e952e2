"""Files as torch.save and pickle write them, and what is in them.

Made with torch 2.11.0 and safetensors 0.8.0 (any version that writes the two layouts will do). Run: python make_files.py
Writes data/*.pth, data/refs.*.p, data/expected.safetensors beside this script.
"""
import collections
import pathlib
import pickle

import torch
from safetensors.torch import save_file

data = pathlib.Path(__file__).parent / "data"
data.mkdir(exist_ok=True)
generator = torch.Generator().manual_seed(7)


def noise(*shape):
    return torch.randn(*shape, generator=generator)


linear = torch.nn.Linear(5, 3)
with torch.no_grad():
    linear.weight.copy_(noise(3, 5))
    linear.bias.copy_(noise(3))
state = linear.state_dict()  # an OrderedDict with the attribute _metadata
base = noise(4, 6)
state["half"] = noise(7).half()
state["bf16"] = noise(3, 3).bfloat16()
state["double"] = noise(2).double()
state["long"] = torch.tensor([-(2**40), 3])
state["int"] = torch.tensor([[1, -2]], dtype=torch.int32)
state["short"] = torch.tensor([-300], dtype=torch.int16)
state["char"] = torch.tensor([-5, 5], dtype=torch.int8)
state["byte"] = torch.tensor([250], dtype=torch.uint8)
state["bool"] = torch.tensor([True, False])
state["scalar"] = noise(())
state["empty"] = torch.empty(0, 3)
state["transposed"] = base.t()
state["strided"] = base[1:4, ::2]
state["permuted"] = noise(2, 3, 4).permute(2, 0, 1)
state["tied"] = base
state["tail"] = base.view(-1)[20:]
state["parameter"] = torch.nn.Parameter(noise(2, 2).bfloat16())
nested = {"epoch": 3, "lr": 0.5, "note": "x", "model": {"a": noise(2), 7: noise(1)}, "list": [noise(1), None]}

torch.save(state, data / "state.pth")
torch.save(state, data / "state_legacy.pth", _use_new_zipfile_serialization=False)
torch.save(state, data / "state_protocol4.pth", pickle_protocol=4)
torch.save(nested, data / "nested.pth")

expected = {name: tensor.detach().clone().contiguous() for name, tensor in state.items()}
expected |= {
    "model.a": nested["model"]["a"],
    "model.7": nested["model"][7],
    "list.0": nested["list"][0],
}
save_file(expected, data / "expected.safetensors")

sentence = {"sent": "the größte dog", "raw": "The größte dog!", "tokens": ["the", "größte", "dog"], "sent_id": 5}
refs = [
    {"ref_id": 0, "ann_id": 900100000012, "category_id": 18, "split": "train", "sent_ids": [5], "sentences": [sentence],
     "file_name": "COCO_train2014_000000000009_0.jpg", "flags": (True, False, None), "score": -1.5e-7, "neg": -70000},
    {"ref_id": 1, "ann_id": -1, "sentences": [], "big": 2**70, "raw": b"\x00\xff"},
]
for protocol in range(6):
    (data / f"refs.{protocol}.p").write_bytes(pickle.dumps(refs[:1] if protocol < 3 else refs, protocol))
