"""What we write opens in safetensors, h5py, torch and transformers, and what they write opens here. Argument: the roundtrip program."""
import collections
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

import h5py
import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

program = sys.argv[1]


def run(*arguments):
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, (arguments, done.returncode, done.stderr)
    return done.stdout


def ramp(count, dtype):
    return torch.arange(count).mul(3).to(dtype)


def check_model(folder):
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    tensors = {}
    for name in sorted(set(index["weight_map"].values())):
        with safe_open(folder / name, "pt") as file:
            assert file.metadata() == {"format": "pt"}
            tensors |= {key: file.get_tensor(key) for key in file.keys()}
            assert all(index["weight_map"][key] == name for key in file.keys())
    assert set(tensors) == set(index["weight_map"])
    assert index["metadata"]["total_size"] == sum(t.numel() * t.element_size() for t in tensors.values())
    assert torch.equal(tensors["first.weight"], ramp(21, torch.float32).view(7, 3))
    assert torch.equal(tensors['second/"ü"'], ramp(4, torch.int64))
    assert tensors["bytes"].shape == (2, 0, 3) and tensors["bytes"].dtype == torch.uint8
    assert torch.equal(tensors["scalar"], torch.tensor(0.1, dtype=torch.float64))
    assert torch.equal(tensors["last"], ramp(5, torch.int16))


def check_hdf5(path):
    with h5py.File(path) as file:
        assert file.attrs["title"] == "größe" and isinstance(file.attrs["title"], str)
        assert file.attrs["version"] == 3 and file.attrs["scale"] == 0.25
        names = {"u8": "u1", "u16": "<u2", "i32": "<i4", "i64": "<i8", "f32": "<f4", "f64": "<f8"}
        assert set(file["all"]) == set(names)
        for name, dtype in names.items():
            data = file["all"][name]
            assert data.dtype == np.dtype(dtype), name
            assert np.array_equal(data[:], (np.arange(80) * 3).astype(dtype)), name
        ends = file["texts/offsets"][:]
        values = file["texts/values"][:].tobytes()
        assert [values[a:b].decode() for a, b in zip(ends, ends[1:])] == ["one", "", "größe"]


def check_reading(folder):
    generator = torch.Generator().manual_seed(3)
    base = torch.randn(33, 17, generator=generator)
    state = collections.OrderedDict(
        (f"{i}.{dtype}".replace("torch.", ""), (base * 50).to(dtype))
        for i, dtype in enumerate([torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int32,
                                   torch.int16, torch.int8, torch.uint8, torch.bool])
    )
    state["view"] = base[3:20:2, 5:]
    state["parameter"] = torch.nn.Parameter(base.half())
    state["buffer"] = torch.nn.Linear(3, 2).state_dict()["bias"]
    want = {name: tensor.detach().contiguous().clone() for name, tensor in state.items()}

    torch.save(state, folder / "pytorch_model.bin")
    torch.save(state, folder / "old.pth", _use_new_zipfile_serialization=False)
    save_file(want, folder / "written.safetensors", metadata={"format": "pt"})
    for name in ["pytorch_model.bin", "old.pth", "written.safetensors", "."]:
        out = folder / "converted.safetensors"
        run("convert", folder / name, out)
        got = load_file(out)
        assert set(got) == set(want), name
        for key, tensor in want.items():
            assert got[key].dtype == tensor.dtype and torch.equal(got[key], tensor), (name, key)


def check_reading_hdf5(path):
    with h5py.File(path, "w") as file:
        file.attrs["text"] = "größe"
        file.attrs.create("fixed", "fix", dtype="S8")
        file.attrs["bytes"] = np.bytes_(b"raw")
        file.attrs["n"] = np.int32(-4)
        file.attrs["x"] = np.float32(0.5)
        file["g/i32"] = np.arange(3, dtype="<i4")
        file.create_dataset("f64_big_endian", data=np.array([1.5, -2.0]), dtype=">f8", chunks=True, compression="gzip")
    assert run("hdf5", path) == "größe|fix|raw|-4|0.5\n0 1 2 1.5 -2 \n"


def check_refusals(folder):
    class Custom:
        def __reduce__(self):
            return (print, ("called",))

    torch.save({"w": torch.zeros(2), "x": Custom()}, folder / "hostile.pth")
    done = subprocess.run([program, "convert", folder / "hostile.pth", folder / "never"], capture_output=True, text=True)
    assert done.returncode == 2 and "print', which is refused" in done.stderr, done
    assert "called" not in done.stdout and not (folder / "never").exists()


def check_torch_files(folder):
    """A state dict saved by us is the same in torch.load, with and without weights_only, and is read again here."""
    state = {"model.mm_projector.0.weight": torch.randn(7, 5), "half": torch.randn(3).half(), "none": torch.empty(0, 4),
             "größe": torch.randn(2, 3, 4).bfloat16(), "ids": torch.arange(6) - 3, "scalar": torch.tensor(2.5)}
    torch.save(state, folder / "theirs.bin")
    run("torch", folder / "theirs.bin", folder / "ours.bin")
    for weights_only in (True, False):
        got = torch.load(folder / "ours.bin", weights_only=weights_only)
        assert set(got) == set(state), list(got)
        for name, tensor in state.items():
            assert got[name].dtype == tensor.dtype and got[name].shape == tensor.shape
            assert bytes_of(got[name]) == bytes_of(tensor), name
    run("torch", folder / "ours.bin", folder / "ours2.bin")
    assert all(bytes_of(tensor) == bytes_of(state[name]) for name, tensor in torch.load(folder / "ours2.bin").items())
    import zipfile
    assert zipfile.ZipFile(folder / "ours.bin").testzip() is None


def bytes_of(tensor):
    return tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def check_transformers(folder):
    """transformers' folders of any kind, saved by us in shards, open in transformers with the bytes they had."""
    from transformers import LlamaConfig, LlamaForCausalLM
    config = LlamaConfig(vocab_size=67, hidden_size=24, intermediate_size=36, num_hidden_layers=3,
                         num_attention_heads=4, num_key_value_heads=2)
    for number, (dtype, safe, most) in enumerate([(torch.bfloat16, True, "5GB"), (torch.float32, True, "20KB"),
                                                  (torch.float16, False, "5GB"), (torch.bfloat16, False, "9KB")]):
        torch.manual_seed(number)
        model = LlamaForCausalLM(config).to(dtype)
        theirs, ours = folder / f"theirs{number}", folder / f"ours{number}"
        model.save_pretrained(theirs, safe_serialization=safe, max_shard_size=most)
        assert most == "5GB" or len(list(theirs.glob("*.index.json"))) == 1
        run("resave", theirs, ours, 7000 if number % 2 else 10**9)
        assert (len(list(ours.glob("*.safetensors"))) > 1) == (number % 2 == 1)
        shutil.copy(theirs / "config.json", ours)
        again, info = LlamaForCausalLM.from_pretrained(ours, dtype="auto", output_loading_info=True)
        assert not any(info.values()), info
        assert again.dtype == dtype
        got, want = again.state_dict(), model.state_dict()
        assert set(got) == set(want)
        assert all(bytes_of(got[key]) == bytes_of(want[key]) for key in want)


with tempfile.TemporaryDirectory() as name:
    root = pathlib.Path(name)
    run("write", root)
    check_model(root / "sharded")
    check_hdf5(root / "file.h5")
    (root / "theirs").mkdir()
    check_reading(root / "theirs")
    check_reading_hdf5(root / "theirs.h5")
    check_torch_files(root)
    check_refusals(root)
    check_transformers(root)
print("ok")
