"""Goldens of LLaVA's data set class and sampler: what LazySupervisedDataset gives for a small conversation file, and the
order that LengthGroupedSampler's functions give.

    python make_llava_goldens.py --tokenizers tests/golden/text/models --llava CHECKOUT

with transformers==4.37.2 tokenizers==0.15.1 torch sentencepiece==0.1.99 protobuf==3.20.3 Pillow. CHECKOUT:
haotian-liu/LLaVA at c121f04. Only the functions and classes named below are taken out of its files and run; no code of
it is kept here. Writes data/llava_dataset.json and data/llava_sampler.json.
"""
import argparse
import ast
import contextlib
import copy
import io
import json
import os
import pathlib
import shutil
import sys
import tempfile
import types
from typing import Dict, List, Optional, Sequence

import torch
import transformers
from PIL import Image

HERE = pathlib.Path(__file__).parent


def turns(*values, first="human"):
    roles = ("human", "gpt") if first == "human" else ("gpt", "human")
    return [{"from": roles[i % 2], "value": value} for i, value in enumerate(values)]


RECORDS = [
    {"id": "GCC_train_000000001", "image": "photo0.jpg",
     "conversations": turns("Give a brief description of the image.\n<image>", "a bus on the road in the morning")},
    {"id": "1", "image": "photo1.jpg",
     "conversations": turns("<image>\nWhat is this?", "A plate of food.", "hello", "hi  there. ", "And the fork?",
                            "It lies\nbeside the plate.")},
    {"id": "2", "conversations": turns("What is 2+2?", "4.", "Why?", "Because two and two\tmake four.")},
    {"id": "1", "image": "photo0.jpg", "conversations": turns("Hello, I begin.", "What?<image>", "A bus.", first="gpt")},
    {"id": "4", "image": "photo2.jpg",
     "conversations": turns("Compare <image> with <image> please", "They are one.", "Sure? <image>", "Yes.")},
    {"id": "5", "image": "photo2.jpg", "conversations": turns("no place for it", "Right.")},
    {"id": "6", "conversations": turns("the tag <image> is only text here", "Yes, it is.")},
    {"id": "7", "conversations": turns("\u4f60\u597d\u3000caf\u00e9 \u201cquoted\u201d", "\u00dcber\u00a0alles \U0001f600")},
    {"id": "8", "image": "photo1.jpg", "conversations": turns("<image>\nodd one out", "fine", "last question")},
]


def load_module(path, name):
    module = types.ModuleType(name)
    sys.modules[name] = module
    exec(compile(pathlib.Path(path).read_text(), str(path), "exec"), module.__dict__)
    return module


def take(path, names, scope):
    """Functions and classes out of a file whose imports are not wanted."""
    tree = ast.parse(pathlib.Path(path).read_text())
    found = [node for node in tree.body if getattr(node, "name", None) in names]
    exec(compile(ast.Module(body=found, type_ignores=[]), str(path), "exec"), scope)
    missing = [name for name in names if name not in scope]
    assert not missing, missing
    return scope


def scope_of(root):
    library = load_module(root / "llava/conversation.py", "llava_conversation")
    scope = {"IGNORE_INDEX": -100, "IMAGE_TOKEN_INDEX": -200, "DEFAULT_IMAGE_TOKEN": "<image>",
             "DEFAULT_IM_START_TOKEN": "<im_start>", "DEFAULT_IM_END_TOKEN": "<im_end>", "torch": torch, "copy": copy,
             "transformers": transformers, "Dict": Dict, "List": List, "Sequence": Sequence, "Optional": Optional,
             "DataArguments": object, "Dataset": torch.utils.data.Dataset, "json": json, "os": os, "Image": Image,
             "IS_TOKENIZER_GREATER_THAN_0_14": True, "conversation_lib": library, "rank0_print": lambda *_: None}
    take(root / "llava/mm_utils.py", ["tokenizer_image_token"], scope)
    take(root / "llava/train/train.py",
         ["preprocess_multimodal", "preprocess_llama_2", "preprocess_v1", "preprocess_mpt", "preprocess_plain",
          "preprocess", "_tokenize_fn", "_mask_targets", "_add_speaker_and_signal", "LazySupervisedDataset"], scope)
    return scope, library


def tokenizer_of(folder, legacy, start_end):
    with tempfile.TemporaryDirectory() as copy_of:
        shutil.copy(folder / "tokenizer.model", copy_of)
        tokenizer = transformers.LlamaTokenizer.from_pretrained(copy_of, legacy=legacy)
    tokenizer.pad_token = tokenizer.unk_token
    if start_end:
        tokenizer.add_tokens(["<im_start>", "<im_end>"], special_tokens=True)
    tokenizer.model_max_length = 2048
    return tokenizer


def item_of(dataset, i):
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            item = dataset[i]
    except (AssertionError, KeyError):
        return None  # the reference stops
    ids, labels = item["input_ids"].tolist(), item["labels"].tolist()
    learned = []
    for p, (a, b) in enumerate(zip(ids, labels)):
        assert b in (a, -100)
        if b == a and learned and learned[-1][1] == p:
            learned[-1][1] = p + 1
        elif b == a:
            learned.append([p, p + 1])
    return {"input_ids": ids, "learned": learned, "mismatch": "mismatch" in said.getvalue()}


def dataset_goldens(args, scope, library):
    processor = transformers.CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    cases, lengths = [], None
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        for n in range(3):
            Image.new("RGB", (40, 30 + n)).save(folder / f"photo{n}.jpg")
        (folder / "talk.json").write_text(json.dumps(RECORDS))
        for form, legacy, start_end in (("v1", True, False), ("v1", False, False), ("v1", True, True),
                                        ("v1_mmtag", True, False), ("llava_llama_2", True, False),
                                        ("plain", True, False), ("v0", True, False)):
            tokenizer = tokenizer_of(pathlib.Path(args.tokenizers) / "mistral_v1", legacy, start_end)
            library.default_conversation = library.conv_templates[form]
            data_args = types.SimpleNamespace(image_folder=str(folder), image_processor=processor, is_multimodal=True,
                                              image_aspect_ratio="square", mm_use_im_start_end=start_end)
            dataset = scope["LazySupervisedDataset"](str(folder / "talk.json"), tokenizer, data_args)
            lengths = dataset.modality_lengths
            cases.append({"template": form, "legacy": legacy, "start_end": start_end,
                          "items": [item_of(dataset, i) for i in range(len(dataset))]})
    write("llava_dataset", {"records": RECORDS, "modality_lengths": lengths, "cases": cases})


def sampler_goldens(scope, root):
    take(root / "llava/train/llava_trainer.py",
         ["split_to_even_chunks", "get_modality_length_grouped_indices", "get_length_grouped_indices"], scope)
    cases = []
    for seed in (0, 7, 42, 2**40 + 5):
        for batch, chunks in ((2, 2), (1, 3), (4, 6)):
            for kind in ("images", "text", "mixed"):
                for count in (8, 50, 61):
                    source = torch.Generator().manual_seed(seed + 1)
                    lengths = (torch.randint(1, 40, (count,), generator=source)).tolist()
                    if kind == "text":
                        lengths = [-length for length in lengths]
                    if kind == "mixed":
                        lengths = [-length if i % 3 == 1 else length for i, length in enumerate(lengths)]
                    torch.manual_seed(seed)  # what the groupings of mixed data draw from
                    generator = torch.Generator().manual_seed(seed + 2)
                    order = scope["get_modality_length_grouped_indices"](lengths, batch, chunks, generator)
                    cases.append({"seed": seed, "batch": batch, "chunks": chunks, "lengths": lengths, "order": order})
    permutations = []
    for seed, count in ((7, 8), (0, 1), (3, 40)):
        permutations.append({"seed": seed, "order": torch.randperm(
            count, generator=torch.Generator().manual_seed(seed)).tolist()})
    write("llava_sampler", {"permutations": permutations, "cases": cases})


def write(name, golden):
    text = json.dumps(golden, separators=(",", ":")).replace(',{"', ',\n{"')
    (HERE / "data" / f"{name}.json").write_text(text + "\n")
    print(name, len(text) // 1024, "KiB")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tokenizers", required=True)
    parser.add_argument("--llava", required=True)
    args = parser.parse_args()
    root = pathlib.Path(args.llava)
    scope, library = scope_of(root)
    dataset_goldens(args, scope, library)
    sampler_goldens(scope, root)


if __name__ == "__main__":
    main()
