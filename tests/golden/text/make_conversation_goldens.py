"""Goldens of conversations: prompt text, ids and labels, computed by the references' own functions.

    transformers==4.31.0 tokenizers==0.13.3   python make_conversation_goldens.py --tokenizers DIR --lisa CHECKOUT
    transformers==4.37.2 tokenizers==0.15.1   python make_conversation_goldens.py --tokenizers DIR --llava CHECKOUT \\
                                                  --llava113 CHECKOUT --fastvlm CHECKOUT
plus torch, sentencepiece==0.1.99, protobuf==3.20.3. CHECKOUT: dvlab-research/LISA at 3cb2d43, haotian-liu/LLaVA at
c121f04 and at tag v1.1.3, apple/ml-fastvlm at 592b4ad. Only the functions named below are taken out of their files and
run; no code of theirs is kept here. Writes data/conversation_lisa.json and data/conversation_llava.json.
"""
import argparse
import ast
import copy
import io
import contextlib
import json
import pathlib
import shutil
import sys
import tempfile
import types
from typing import Dict, List, Sequence

import torch
import transformers

HERE = pathlib.Path(__file__).parent


def load_module(path, name):
    """A whole module without package imports."""
    module = types.ModuleType(name)
    sys.modules[name] = module
    exec(compile(pathlib.Path(path).read_text(), str(path), "exec"), module.__dict__)
    return module


def take(path, names, scope):
    """Functions out of a file whose imports are not wanted."""
    tree = ast.parse(pathlib.Path(path).read_text())
    found = [node for node in tree.body if isinstance(node, (ast.FunctionDef, ast.Assign)) and
             (getattr(node, "name", None) in names or
              isinstance(node, ast.Assign) and getattr(node.targets[0], "id", None) in names)]
    exec(compile(ast.Module(body=found, type_ignores=[]), str(path), "exec"), scope)
    missing = [n for n in names if n not in scope]
    assert not missing, missing
    return scope


CONSTANTS = {"IGNORE_INDEX": -100, "IMAGE_TOKEN_INDEX": -200, "DEFAULT_IMAGE_TOKEN": "<image>",
             "DEFAULT_IM_START_TOKEN": "<im_start>", "DEFAULT_IM_END_TOKEN": "<im_end>", "torch": torch, "copy": copy,
             "transformers": transformers, "Dict": Dict, "List": List, "Sequence": Sequence, "DataArguments": object}

LONG = " ".join(f"word{i} and" for i in range(18))
LONGER = " ".join(f"word{i} and" for i in range(64))
DIALOGUES = [
    ["<image>\nWhat is dog in this image? Please output segmentation mask.", "Sure, [SEG]."],
    ["<image>\nCan you segment the food, that is cold: the refrigerator in this image?", "It is [SEG]."],
    ["<image>\nWhere is it? Please respond with segmentation mask.", "[SEG]."],
    ["<image>\nWhy? Please output segmentation mask and explain why.",
     "Sure, the segmentation result is [SEG]. Because 3 < 4, it's \u201cred\u201d \U0001f600 \u4f60\u597d.\n\nNew line"],
    ["<image>\nDescribe it.", "A cat\u2019s   mat", "hello", "hi there.", "And the dog?", "\u00dcber-Hund, na\u00efve caf\u00e9 #7!"],
    ["What is 2+2?", "4."],
    ["hello", "Hi!", "Who are you?", "An assistant", "ok", "bye \n"],
    ["<image>\n" + LONGER, "Sure, [SEG]."],
    ["<image>\nshort", LONG + " [SEG]"],
    [LONG, LONG, "and", "then"],
    ["<image>\n\n  spaces ", "  answer "],
    ["What is this?\n<image>", "It is  a  test ."],
    ["<image>\nodd one out", "fine", "last question"],
]


def llama_tokenizer(args, model, legacy):
    """From a folder: 4.31 knows the special tokens of a bare file only then."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(f"{args.tokenizers}/{model}/tokenizer.model", folder)
        tokenizer = transformers.LlamaTokenizer.from_pretrained(folder, legacy=legacy)
    tokenizer.pad_token = tokenizer.unk_token
    return tokenizer


def learned(result):
    """Labels as the runs [begin, end) in which they equal the ids; elsewhere they are -100."""
    if result is None:
        return None
    runs, ids, labels = [], result["input_ids"], result.pop("labels")
    for i, (a, b) in enumerate(zip(ids, labels)):
        assert b in (a, -100)
        if b == a:
            if runs and runs[-1][1] == i:
                runs[-1][1] = i + 1
            else:
                runs.append([i, i + 1])
    assert len(ids) == len(labels)
    return dict(result, learned=runs)


def lisa(args):
    root = pathlib.Path(args.lisa)
    conversation_lib = load_module(root / "model/llava/conversation.py", "lisa_conversation")
    scope = take(root / "model/llava/mm_utils.py", ["tokenizer_image_token"], dict(CONSTANTS))
    scope["conversation_lib"] = conversation_lib
    take(root / "utils/dataset.py", ["collate_fn"], scope)
    phrases = {"DEFAULT_IMAGE_TOKEN": "<image>"}
    take(root / "utils/utils.py", ["SHORT_QUESTION_LIST", "LONG_QUESTION_LIST", "EXPLANATORY_QUESTION_LIST",
                                   "ANSWER_LIST"], phrases)
    cases = []
    for model in ("mistral_v1", "llama2"):
        for form in ("llava_v1", "llava_llama_2"):
            for legacy in (True, False):
                tokenizer = llama_tokenizer(args, model, legacy)
                tokenizer.add_tokens("[SEG]")
                tokenizer.add_tokens(["<im_start>", "<im_end>"], special_tokens=True)
                conversation_lib.default_conversation = conversation_lib.conv_templates[form]
                for start_end in (True, False):
                    for max_length in (512, 300):
                        tokenizer.model_max_length = max_length
                        for dialogue in DIALOGUES:
                            cases.append(lisa_case(scope, conversation_lib, tokenizer, model, form, legacy, start_end,
                                                   max_length, dialogue))
    keep = [c for i, c in enumerate(cases) if (c["legacy"] and c["max_length"] == 512) or i % 3 == 0]
    write("conversation_lisa", {
        "phrases": {k: v for k, v in phrases.items() if isinstance(v, list)}, "cases": keep})


def lisa_case(scope, conversation_lib, tokenizer, model, form, legacy, start_end, max_length, dialogue):
    conv = conversation_lib.default_conversation.copy()
    conv.messages = [[conv.roles[i % 2], m] for i, m in enumerate(dialogue)]
    text = conv.get_prompt()
    case = {"model": model, "template": form, "legacy": legacy, "start_end": start_end, "max_length": max_length,
            "messages": dialogue, "text": text}
    image = torch.zeros(1)
    for inference in (False, True):
        sample = ("", image, image, [text], image, image, (1, 1), [], [], inference)
        try:
            out = scope["collate_fn"]([sample], tokenizer, form, start_end)
            result = {"input_ids": out["input_ids"][0].tolist(), "labels": out["labels"][0].tolist()}
        except AssertionError:
            result = None  # the reference stops
        case["validation" if inference else "training"] = learned(result)
    return case


TEMPLATES = {"v1": "v1", "llava_v1": "llava_v1", "v1_mmtag": "v1_mmtag", "llama_2": "llama_2",
             "llava_llama_2": "llava_llama_2", "mistral_instruct": "mistral_instruct", "plain": "plain", "v0": "v0",
             "llava_v0": "llava_v0", "v0_mmtag": "v0_mmtag", "mpt": "mpt", "chatml_direct": "chatml_direct"}


def llava_scope(root):
    conversation_lib = load_module(pathlib.Path(root) / "llava/conversation.py", "llava_conversation")
    scope = take(pathlib.Path(root) / "llava/mm_utils.py", ["tokenizer_image_token"], dict(CONSTANTS))
    scope["conversation_lib"] = conversation_lib
    scope["IS_TOKENIZER_GREATER_THAN_0_14"] = True
    names = ["preprocess_multimodal", "preprocess_llama_2", "preprocess_v1", "preprocess_mpt", "preprocess_plain",
             "preprocess", "_tokenize_fn", "_mask_targets", "_add_speaker_and_signal"]
    take(pathlib.Path(root) / "llava/train/train.py", names, scope)
    return scope, conversation_lib


def records():
    for dialogue in DIALOGUES:
        turns = [{"from": "human" if i % 2 == 0 else "gpt", "value": m} for i, m in enumerate(dialogue)]
        yield turns, any("<image>" in m for m in dialogue)
    yield [{"from": "gpt", "value": "I begin."}] + [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "yo"}], False


def llava_tokenizers(args):
    for model in ("mistral_v1", "llama2"):
        for legacy in (True, False):
            yield model, legacy, llama_tokenizer(args, model, legacy)
    neox = transformers.PreTrainedTokenizerFast(tokenizer_file=f"{args.tokenizers}/gpt_neox_20b/tokenizer.json")
    neox.add_special_tokens({"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>",
                             "pad_token": "<|endoftext|>"})
    neox.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    yield "gpt_neox_20b", None, neox
    with tempfile.TemporaryDirectory() as folder:
        for file in ("vocab.json", "merges.txt"):
            shutil.copy(f"{args.tokenizers}/qwen/{file}", folder)
        golden = json.loads((HERE / "data/q437_fast.json").read_text())
        pathlib.Path(folder, "tokenizer_config.json").write_text(json.dumps(golden["files"]["tokenizer_config.json"]))
        qwen = transformers.Qwen2TokenizerFast.from_pretrained(folder)
    yield "qwen", None, qwen


def run(preprocess, turns, tokenizer, has_image):
    """Ids and labels after the collator's cut, and whether the trainer warned that the lengths disagree."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            out = preprocess([copy.deepcopy(turns)], tokenizer, has_image)
    except (AssertionError, KeyError, IndexError, TypeError):
        return None
    limit = tokenizer.model_max_length
    return {"input_ids": out["input_ids"][0].tolist()[:limit], "labels": out["labels"][0].tolist()[:limit],
            "mismatch": "mismatch" in said.getvalue()}


def prompt_of(scope, conversation_lib, form, turns):
    conv = conversation_lib.conv_templates[form].copy()
    if conv.sep_style == conversation_lib.SeparatorStyle.PLAIN:
        return "<image>" + turns[1]["value"] + conv.sep if len(turns) == 2 else None
    if conv.sep_style == conversation_lib.SeparatorStyle.SINGLE:
        conversation_lib.default_conversation = conversation_lib.conv_templates[form]
        return scope["_add_speaker_and_signal"](f"{conv.system}\n\n", copy.deepcopy(turns))
    if turns[0]["from"] == "gpt":
        turns = turns[1:]
    conv.messages = [[conv.roles[i % 2], t["value"]] for i, t in enumerate(turns)]
    return conv.get_prompt()


def llava(args):
    scope, lib = llava_scope(args.llava)
    # The release whose mask for mpt fits; it runs on the newer templates.
    old_scope = take(pathlib.Path(args.llava113) / "llava/train/train.py", ["preprocess_mpt"],
                     dict(CONSTANTS, conversation_lib=lib, tokenizer_image_token=scope["tokenizer_image_token"]))
    qwen_lib = load_module(pathlib.Path(args.fastvlm) / "llava/conversation.py", "fastvlm_conversation")
    qwen_scope = dict(scope, conversation_lib=qwen_lib)
    take(pathlib.Path(args.fastvlm) / "llava/train/train_qwen.py", ["preprocess_qwen_2"], qwen_scope)
    data_args = types.SimpleNamespace(is_multimodal=True, mm_use_im_start_end=False)
    cases = []
    for model, legacy, tokenizer in llava_tokenizers(args):
        chat = model in ("gpt_neox_20b", "qwen")
        forms = [f for f in TEMPLATES if (f in ("mpt", "chatml_direct", "plain")) == chat or f == "plain"]
        for form in forms + (["qwen_2"] if model == "qwen" else []):
            for limit in (2048, 60):
                tokenizer.model_max_length = limit
                for turns, has_image in records():
                    used, used_lib = (qwen_scope, qwen_lib) if form == "qwen_2" else (scope, lib)
                    used_lib.default_conversation = used_lib.conv_templates[form]
                    turns = copy.deepcopy(turns)
                    if has_image:
                        scope["conversation_lib"] = used_lib
                        scope["preprocess_multimodal"]([turns], data_args)
                        scope["conversation_lib"] = lib
                    text = prompt_of(scope, used_lib, form, turns)
                    case = {"model": model, "legacy": legacy, "template": form, "max_length": limit, "turns": turns,
                            "has_image": has_image, "text": text}
                    if form == "qwen_2":
                        case["result"] = run(used["preprocess_qwen_2"], turns, tokenizer, has_image)
                    else:
                        case["result"] = run(scope["preprocess"], turns, tokenizer, has_image)
                    if form in ("mpt", "chatml_direct"):
                        case["strict"] = case["result"]
                        case["result"] = run(lambda s, t, h: old_scope["preprocess_mpt"](s, t), turns, tokenizer, True)
                    for key in {"result", "strict"} & case.keys():
                        case[key] = learned(case[key])
                    if text is not None:
                        cases.append(case)
    keep = [c for i, c in enumerate(cases) if c["max_length"] != 60 or i % 5 == 0]
    write("conversation_llava", {"cases": keep})


def write(name, golden):
    text = json.dumps(golden, ensure_ascii=True, separators=(",", ":")).replace(',{"model"', ',\n{"model"')
    (HERE / "data" / f"{name}.json").write_text(text + "\n")
    results = [c.get("result", c.get("training")) for c in golden["cases"]]
    print(name, len(results), "cases,", sum(r is None for r in results), "refused,",
          sum(bool(r and r.get("mismatch")) for r in results), "mismatches,", len(text) // 1024, "KiB")


def main():
    parser = argparse.ArgumentParser()
    for name in ("tokenizers", "lisa", "llava", "llava113", "fastvlm"):
        parser.add_argument(f"--{name}", required=name == "tokenizers")
    args = parser.parse_args()
    if args.lisa:
        lisa(args)
    if args.llava:
        llava(args)


if __name__ == "__main__":
    main()
