"""Goldens of tokenizers: ids, pieces and decoded text of hard strings.

Run once per release, each in an environment of its own:
    transformers==4.31.0 tokenizers==0.13.3 sentencepiece==0.1.99 protobuf==3.20.3
    transformers==4.37.2 tokenizers==0.15.1 sentencepiece==0.1.99 protobuf==3.20.3
    python make_tokenizer_goldens.py --tokenizers DIR --tiny FILE
DIR holds llama2/, chinese_alpaca_7b/, mistral_v1/, qwen/, gpt_neox_20b/ as in tests/data/text/README.md; FILE is tok512.model.
Writes data/<name>.json: {release, model, files, legacy?, add?, rows: [[text, ids, pieces, decoded, decoded without special]]}.
A file named in `files` is what a model folder would hold beside the model.
"""
import argparse
import json
import pathlib
import shutil
import tempfile

import tokenizers
import transformers

from hard_strings import all_strings

HERE = pathlib.Path(__file__).parent
RELEASE = ".".join(transformers.__version__.split(".")[:2])
BASE = {"add_bos_token": True, "add_eos_token": False, "tokenizer_class": "LlamaTokenizer",
        "clean_up_tokenization_spaces": False, "sp_model_kwargs": {}}


def token(content, **flags):
    return {"__type": "AddedToken", "content": content, "lstrip": False, "normalized": True, "rstrip": False,
            "single_word": False, **flags}


def entry(content, **flags):
    return {"content": content, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False,
            "special": True, **flags}


CORE = {"bos_token": token("<s>"), "eos_token": token("</s>"), "unk_token": token("<unk>")}
LISA_ADDED = {"[SEG]": 32000, "<im_start>": 32001, "<im_end>": 32002}
THREE = {"0": entry("<unk>"), "1": entry("<s>"), "2": entry("</s>")}

# name: (release, model, files, tokens that are added in memory)
SENTENCEPIECE = {
    "m431_bare": ("4.31", "mistral_v1", {}, []),
    "m431_lisa_in_memory": ("4.31", "mistral_v1", {"tokenizer_config.json": {**BASE, **CORE}}, ["lisa"]),
    "m431_lisa_folder": ("4.31", "mistral_v1", {"tokenizer_config.json": {**BASE, **CORE, "legacy": True},
                                                "added_tokens.json": LISA_ADDED}, []),
    "m431_new_rules": ("4.31", "mistral_v1", {"tokenizer_config.json": {**BASE, **CORE, "legacy": False},
                                              "added_tokens.json": LISA_ADDED}, []),
    "m431_map_of_strings": ("4.31", "mistral_v1", {
        "tokenizer_config.json": {**BASE, **CORE, "pad_token": None},
        "special_tokens_map.json": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "[PAD]",
                                    "additional_special_tokens": ["<im_patch>"]}}, []),
    "m437_bare": ("4.37", "mistral_v1", {}, []),
    "m437_new_rules": ("4.37", "mistral_v1", {"tokenizer_config.json": {**BASE, **CORE, "legacy": False}}, []),
    "m437_added_legacy": ("4.37", "mistral_v1", {"tokenizer_config.json": {**BASE, **CORE, "legacy": True},
                                                 "added_tokens.json": {"<pad>": 32000, "<im_patch>": 32001, "<im_start>": 32002},
                                                 "special_tokens_map.json": {"pad_token": "<pad>"}}, []),
    "m437_decoder": ("4.37", "mistral_v1", {"tokenizer_config.json": {
        **BASE, "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<unk>", "legacy": False,
        "additional_special_tokens": ["<im_start>"],
        "added_tokens_decoder": {**THREE, "32000": entry("<im_start>", rstrip=True),
                                 "32001": entry("<im_end>", special=False, lstrip=True),
                                 "32002": entry("[SEG]", special=False, normalized=True, single_word=True)}}}, []),
    "t437_tiny": ("4.37", "tok512", {"tokenizer_config.json": {**BASE, "legacy": True}}, []),
    "t437_tiny_new_rules": ("4.37", "tok512", {"tokenizer_config.json": {**BASE, "legacy": False}}, []),
    "l431_lisa_in_memory": ("4.31", "llama2", {}, ["lisa"]),
    "l437_new_rules": ("4.37", "llama2", {"tokenizer_config.json": {**BASE, **CORE, "legacy": False}}, []),
    "l437_bare": ("4.37", "llama2", {}, []),
}


def rows(tokenizer, texts):
    out = []
    for text in texts:
        ids = tokenizer(text).input_ids
        out.append([text, ids, tokenizer.convert_ids_to_tokens(ids), tokenizer.decode(ids),
                    tokenizer.decode(ids, skip_special_tokens=True)])
    return out


def rows_sentencepiece(tokenizer, texts):
    """Pieces as the slow tokenizer yields them, before they become ids: an unknown one keeps its text."""
    out = rows(tokenizer, texts)
    for row in out:
        front = [tokenizer.bos_token] if tokenizer.add_bos_token else []
        row[2] = front + tokenizer.tokenize(row[0])
        assert len(row[1]) == len(row[2]), row
    return out


def write(name, golden):
    (HERE / "data").mkdir(exist_ok=True)
    text = json.dumps(golden, ensure_ascii=True, separators=(",", ":")).replace('],["', '],\n["')
    (HERE / "data" / f"{name}.json").write_text(text + "\n")
    print(name, len(golden["rows"]), "rows", len(text) // 1024, "KiB")


def sentencepiece_goldens(args, texts):
    for name, (release, model, files, add) in SENTENCEPIECE.items():
        if release != RELEASE:
            continue
        with tempfile.TemporaryDirectory() as folder:
            source = args.tiny if model == "tok512" else f"{args.tokenizers}/{model}/tokenizer.model"
            shutil.copy(source, f"{folder}/tokenizer.model")
            for file, content in files.items():
                pathlib.Path(folder, file).write_text(json.dumps(content))
            tokenizer = transformers.LlamaTokenizer.from_pretrained(folder)
            if "lisa" in add:
                tokenizer.add_tokens("[SEG]")
                tokenizer.add_tokens(["<im_start>", "<im_end>"], special_tokens=True)
            write(name, {"release": release, "model": model, "files": files, "add": add, "size": len(tokenizer),
                         "rows": rows_sentencepiece(tokenizer, texts)})


def qwen_goldens(args, texts):
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    decoder = {str(151643 + i): entry(content) for i, content in enumerate(special)}
    config = {"tokenizer_class": "Qwen2Tokenizer", "add_prefix_space": False, "bos_token": None,
              "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "unk_token": None, "errors": "replace",
              "additional_special_tokens": ["<|im_start|>", "<|im_end|>"], "clean_up_tokenization_spaces": False,
              "added_tokens_decoder": decoder}
    files = {"tokenizer_config.json": config}
    with tempfile.TemporaryDirectory() as folder:
        for file in ("vocab.json", "merges.txt"):
            shutil.copy(f"{args.tokenizers}/qwen/{file}", folder)
        pathlib.Path(folder, "tokenizer_config.json").write_text(json.dumps(config))
        slow = transformers.Qwen2Tokenizer.from_pretrained(folder)
        write("q437_slow", {"release": "4.37", "model": "qwen", "files": files, "add": [], "drop_hash_merges": True,
                            "size": len(slow), "rows": rows(slow, texts)})
        fast = transformers.Qwen2TokenizerFast.from_pretrained(folder)
        # Converted from the slow one, it lacks the merges that begin with '#'; a published tokenizer.json has them.
        fast.backend_tokenizer.model = tokenizers.models.BPE.from_file(f"{folder}/vocab.json", f"{folder}/merges.txt")
        write("q437_fast", {"release": "4.37", "model": "qwen_json", "files": files, "add": [], "size": len(fast),
                            "rows": rows(fast, texts)})


def neox_goldens(args, texts):
    path = f"{args.tokenizers}/gpt_neox_20b/tokenizer.json"
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=path)
    write("n437_bare", {"release": "4.37", "model": "gpt_neox_20b", "files": {}, "add": [], "size": len(tokenizer),
                        "rows": rows(tokenizer, texts)})


FLAGGED = [
    {"id": 50277, **entry("[SEG]", special=False, lstrip=True, rstrip=True)},
    {"id": 50278, **entry("<im_start>", single_word=True)},
    {"id": 50279, **entry("caf\u00e9", special=False, normalized=True)},
    {"id": 50280, **entry("<im_end>", rstrip=True, normalized=True)},
    {"id": 50281, **entry("seg", special=False, single_word=True, lstrip=True, normalized=True)},
]


def flagged_goldens(args, texts):
    """Added tokens with every flag, in tokenizer.json."""
    full = json.loads(pathlib.Path(f"{args.tokenizers}/gpt_neox_20b/tokenizer.json").read_text())
    full["added_tokens"] += FLAGGED
    with tempfile.TemporaryDirectory() as folder:
        pathlib.Path(folder, "tokenizer.json").write_text(json.dumps(full))
        tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=f"{folder}/tokenizer.json")
    write("n437_flags", {"release": "4.37", "model": "gpt_neox_20b", "files": {}, "add": [], "json_added": FLAGGED,
                         "size": len(tokenizer), "rows": rows(tokenizer, texts)})


def alpaca_goldens(args, texts):
    """A real folder with its own configuration: LLaMA's pieces and 17,953 Chinese ones."""
    source = pathlib.Path(args.tokenizers, "chinese_alpaca_7b")
    names = ("tokenizer_config.json", "special_tokens_map.json")
    with tempfile.TemporaryDirectory() as folder:
        for file in (*names, "tokenizer.model"):
            shutil.copy(source / file, folder)
        tokenizer = transformers.LlamaTokenizer.from_pretrained(folder)
    write(f"a{RELEASE.replace('.', '')}_alpaca", {
        "release": RELEASE, "model": "chinese_alpaca_7b", "add": [], "size": len(tokenizer),
        "files": {file: json.loads((source / file).read_text()) for file in names},
        "rows": rows_sentencepiece(tokenizer, texts)})


def gpt2_goldens(args, texts):
    """GPT-2's kind: its pattern, no normaliser, clean-up of spaces before punctuation when decoding. The vocabulary was
    trained once on every second of the hard strings and is kept in models/gpt2_kind."""
    kept = HERE / "models" / "gpt2_kind"
    if not (kept / "merges.txt").exists():
        kept.mkdir(parents=True)
        trained = tokenizers.ByteLevelBPETokenizer()
        trained.train_from_iterator(texts[::2] * 3, vocab_size=700, min_frequency=2, special_tokens=["<|endoftext|>"])
        trained.save_model(str(kept))
    config = {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": False, "bos_token": "<|endoftext|>",
              "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>", "pad_token": None, "errors": "replace"}
    files = {"tokenizer_config.json": config}
    with tempfile.TemporaryDirectory() as folder:
        for file in ("vocab.json", "merges.txt"):
            shutil.copy(kept / file, folder)
        pathlib.Path(folder, "tokenizer_config.json").write_text(json.dumps(config))
        slow = transformers.GPT2Tokenizer.from_pretrained(folder)
        write("g437_slow", {"release": "4.37", "model": "gpt2_kind", "files": files, "add": [], "size": len(slow),
                            "rows": rows(slow, texts)})
        fast = transformers.GPT2TokenizerFast.from_pretrained(folder)
        fast.save_pretrained(folder)
        full = json.loads(pathlib.Path(folder, "tokenizer.json").read_text())
        write("g437_fast", {"release": "4.37", "model": "none", "files": files | {"tokenizer.json": full}, "add": [],
                            "size": len(fast), "rows": rows(fast, texts)})


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tokenizers", required=True)
    parser.add_argument("--tiny", required=True)
    args = parser.parse_args()
    texts = all_strings(60)
    sentencepiece_goldens(args, texts)
    alpaca_goldens(args, texts)
    if RELEASE == "4.37":
        qwen_goldens(args, texts)
        neox_goldens(args, texts)
        flagged_goldens(args, texts)
        gpt2_goldens(args, texts)


if __name__ == "__main__":
    main()
