"""Every flag of the commands on files and folders, and the check that shows its effect."""

import gzip
import json
import pathlib
import shutil
import sys

from effects import Files, Refused, Told
from PIL import Image
from safetensors import safe_open
from toy import LANGUAGE, SOURCE

sys.path.insert(0, str(SOURCE / "tests/support"))
from llama_weights import write_llama  # noqa: E402

TEXTS = SOURCE / "tests/golden/text/models"
MODELS = SOURCE / "tests/golden/models/data"
LLAVA_CHAT = ("A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, "
              "detailed, and polite answers to the human's questions. USER: <image>\nWhat is it? ASSISTANT: It is a "
              "cat.</s>USER: Where? ASSISTANT: There.</s>")
MPT_CHAT = "".join(f"<|im_start|>{who}\n{says}<|im_end|>" for who, says in (
    ("system", "A conversation."), ("user", "<image>\nWhat is it?"), ("assistant", "It is a cat."), ("user", "Where?"),
    ("assistant", "There.")))


# --- what the runs read ---
def tokenizer(folder, name, **files):
    folder.mkdir()
    for file in (TEXTS / name).iterdir() if name else ():
        if file.suffix == ".gz":
            (folder / file.stem).write_bytes(gzip.decompress(file.read_bytes()))
        else:
            shutil.copy(file, folder)
    for file, content in files.items():
        (folder / f"{file}.json").write_text(json.dumps(content))


def tower(folder, name):
    shutil.copytree(MODELS / name, folder)
    side = json.loads((folder / "config.json").read_text())["image_size"]
    (folder / "preprocessor_config.json").write_text(json.dumps(
        {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}))


def damage(source, target):
    """The shards once more; 16 bytes near the end of the largest are others, beyond those that opening it compares."""
    shutil.copytree(source, target)
    shard = max(target.glob("train-*.h5"), key=lambda path: path.stat().st_size)
    content = bytearray(shard.read_bytes())
    at = len(content) * 9 // 10
    content[at:at + 16] = bytes(b ^ 255 for b in content[at:at + 16])
    shard.write_bytes(content)


def lay_out(toy):
    """Tokenizers, towers, texts, a composed LLaVA, and what every run of a command has, by kind."""
    root = toy.root
    tokenizer(root / "words", "tok512", added_tokens={"<x>": 512})
    tokenizer(root / "seg", "mistral_v1", added_tokens={"[SEG]": 32000})
    marks = {str(50277 + i): {"content": mark, "special": True} for i, mark in enumerate(("<|im_start|>", "<|im_end|>"))}
    tokenizer(root / "neox", "gpt_neox_20b", tokenizer_config={
        "tokenizer_class": "GPTNeoXTokenizer", "unk_token": "<|endoftext|>", "pad_token": "<|padding|>",
        "added_tokens_decoder": marks})
    tokenizer(root / "hash", "", vocab={"#": 0, "!": 1, "#!": 2, "a": 3, "<|endoftext|>": 4},
              tokenizer_config={"tokenizer_class": "Qwen2Tokenizer"})
    (root / "hash/merges.txt").write_text("#version: 0.2\n# !\n")
    for name, texts in {"texts": ["a<x>b", "a <image> b"], "others": ["dogs"], "apart": ["a [SEG] b"],
                        "hashes": ["#!a"], "chats": [LLAVA_CHAT], "mpt-chats": [MPT_CHAT]}.items():
        (root / f"{name}.json").write_text(json.dumps(texts))
    narrow = LANGUAGE | {"hidden_size": 24, "model_type": "llama"}
    shutil.copytree(root / "llava", root / "narrow")
    (root / "narrow/config.json").write_text(json.dumps(narrow))
    write_llama(root / "narrow", narrow)
    tower(root / "clip28", "clip_28px")
    tower(root / "clip30", "clip_30px_gelu")
    damage(root / "shards-lisa", root / "shards-damaged")

    def tokenize(model, texts):
        return ["--model", root / model, "--inputs", root / f"{texts}.json", "--outputs", "{folder}/ids.json"]

    toy.base |= {
        ("tokenize", "words"): tokenize("words", "texts"),
        ("tokenize", "seg"): tokenize("seg", "apart"),
        ("tokenize", "hash"): tokenize("hash", "hashes"),
        ("tokenize", "chat"): tokenize("words", "chats"),
        ("tokenize", "mpt"): tokenize("neox", "mpt-chats"),
        ("preprocess", "clip"): ["--image", root / "pictures/0.png", "--outputs", "{folder}/pixels.safetensors"],
        ("compose", "llava"): ["--language_model", root / "llava", "--vision_tower", root / "clip28", "--output",
                               "{folder}/llava"],
        ("reparameterize", "fastvit"): ["--model", "{golden}/fastvit_apple_branches", "--output_dir",
                                        "{folder}/folded"],
    }
    shutil.copytree(toy.run("compose", "llava", ["--seed", "7"]).folder / "llava", root / "composed")


# --- what the runs wrote ---
def items(run, file="ids.json"):
    return json.loads((run.folder / file).read_text())


def ids(run):
    return [item["ids"] for item in items(run)]


def chat(run):
    (item,) = items(run)
    return item


def supervised(run):
    return sum(label != -100 for label in chat(run)["labels"])


def arrays(path):
    with safe_open(path, "np") as file:
        return {name: file.get_tensor(name) for name in file.keys()}


def pixels(run):
    return arrays(run.folder / "pixels.safetensors")["pixel_values"]


def composed(*path):
    """What config.json of a composed LLaVA says there."""
    def read(run):
        value = items(run, "llava/config.json")
        for key in path:
            value = value[key]
        return value
    return read


def weights(folder, part=""):
    return {n: t for n, t in arrays(folder / "model.safetensors").items() if part in n}


def projector(run):
    return weights(run.folder / "llava", "multi_modal_projector")


def equal(a, b):
    return a.keys() == b.keys() and all((a[name] == b[name]).all() for name in a)


def added(run):
    return items(run, "llava/added_tokens.json")


def new_rows(run):
    (rows,) = weights(run.folder / "llava", "embed_tokens").values()
    return rows[LANGUAGE["vocab_size"]:]


def types(run):
    with safe_open(run.folder / "llava/model.safetensors", "np") as file:
        return {file.get_slice(name).get_dtype() for name in file.keys()}


def sheet(run):
    with Image.open(run.folder / "sheet.png") as picture:
        return picture.size


def shown(run):
    """The picture's name has the sample's number."""
    (picture,) = run.folder.glob("sample_*.png")
    return int(picture.stem.removeprefix("sample_"))


def becomes(wanted):
    return lambda without, with_it: with_it == wanted


def of(command, kind, table):
    for check in table.values():
        check.command, check.kind = command, kind
    return table


TOKENIZE = of("tokenize", "words", {
    "model": Told("--model", "{root}/seg", read=ids, holds=lambda a, b: max(a[1]) <= 512 < max(b[1])),
    "inputs": Told("--inputs", "{root}/others.json", read=lambda run: [i["text"] for i in items(run)],
                   holds=becomes(["<s>dogs"])),
    "outputs": Files("other.json", "--outputs", "{folder}/other.json"),
    "legacy": Told("--legacy", "true", base=["--legacy", "false"], read=lambda run: items(run)[0]["pieces"],
                   holds=lambda a, b: a[-1] == "b" and b == a[:-1] + ["\u2581b"]),
    "bos": Told("--bos", "false", read=ids, holds=lambda a, b: b == [row[1:] for row in a]),
    "image_token": Told("--image_token", read=ids, holds=lambda a, b: b[1].count(-200) == 1 and b[0] == a[0]),
}) | of("tokenize", "seg", {
    "strip_added_tokens": Told("--strip_added_tokens", "true", base=["--strip_added_tokens", "false"],
                               read=lambda run: items(run)[0]["pieces"],
                               holds=lambda a, b: a.count("\u2581") == 2 and b == [p for p in a if p != "\u2581"]),
}) | of("tokenize", "hash", {
    "drop_hash_merges": Told("--drop_hash_merges", read=lambda run: items(run)[0]["pieces"],
                             holds=becomes(["#", "!", "a"])),
}) | of("tokenize", "chat", {
    "conversations": Told("--conversations", "--template", "llava_v1", read=lambda run: set(chat(run)),
                          holds=becomes({"input_ids", "labels"})),
    "template": Told("--template", "llava_llama_2", base=["--conversations", "--template", "llava_v1"], read=supervised,
                     holds=lambda a, b: a > 0 and b == 0),
    "max_length": Told("--max_length", "20", base=["--conversations", "--template", "llava_v1"], read=chat,
                       holds=lambda a, b: len(b["input_ids"]) == 20 and b["input_ids"] == a["input_ids"][:20]),
}) | of("tokenize", "mpt", {
    "strict_mpt": Told("--strict_mpt", base=["--conversations", "--template", "mpt"], read=chat,
                       holds=lambda a, b: a["input_ids"] == b["input_ids"] and a["labels"] != b["labels"]),
})

PREPROCESS = of("preprocess", "clip", {
    "kind": Told("--kind", "sam", read=lambda run: pixels(run).shape, holds=becomes((1, 3, 1024, 1024))),
    "image": Told("--image", "{root}/pictures/1.png", read=pixels,
                  holds=lambda a, b: a.shape == b.shape and (a != b).mean() > 0.9),
    "size": Told("--size", "64", read=lambda run: pixels(run).shape, holds=becomes((1, 3, 64, 64))),
    # 40 x 52 pixels: a column at the side is the mean colour, which the normalisation makes about nothing.
    "aspect": Told("--aspect", "pad", read=lambda run: abs(pixels(run)[..., 0]).max(), holds=lambda a, b: b < 0.02 < a),
    "model": Told("--model", "{root}/lisa/clip", read=lambda run: pixels(run).shape, holds=becomes((1, 3, 32, 32))),
    "outputs": Files("other.safetensors", "--outputs", "{folder}/other.safetensors"),
})

BOUND = 24 ** -0.5  # of PyTorch's linear layer on the tower's 24 channels
COMPOSE = of("compose", "llava", {
    "language_model": Told("--language_model", "{root}/narrow", read=composed("text_config", "hidden_size"),
                           holds=becomes(24)),
    "vision_tower": Told("--vision_tower", "{root}/clip30", read=composed("vision_config", "image_size"),
                         holds=becomes(30)),
    "output": Files("elsewhere/config.json", "--output", "{folder}/elsewhere"),
    "projector": Told("--projector", "{root}/composed", read=lambda run: equal(
        projector(run), weights(run.folder.parents[1] / "composed", "multi_modal_projector")), holds=becomes(True)),
    "projector_init": Told("--projector_init", "uniform",
                           read=lambda run: abs(projector(run)["multi_modal_projector.linear_1.weight"]).max(),
                           holds=lambda a, b: 0.9 * BOUND < b <= BOUND),
    "mm_vision_select_layer": Told("--mm_vision_select_layer", "-1", read=composed("vision_feature_layer"),
                                   holds=becomes(-1)),
    "mm_vision_select_feature": Told("--mm_vision_select_feature", "cls_patch",
                                     read=composed("vision_feature_select_strategy"), holds=becomes("full")),
    "image_token": Told("--image_token", "<picture>", read=added, holds=becomes({"<picture>": 640, "<pad>": 641})),
    "pad_token": Told("--pad_token", "<nothing>", read=added, holds=becomes({"<image>": 640, "<nothing>": 641})),
    "new_token_init": Told("--new_token_init", "normal", read=lambda run: (new_rows(run).std(0) > 1e-3).all(),
                           holds=becomes(True)),
    "pad_to_multiple_of": Told("--pad_to_multiple_of", "10", read=composed("text_config", "vocab_size"),
                               holds=becomes(650)),
    "dtype": Told("--dtype", "fp16", read=types, holds=becomes({"F16"})),
    "max_shard_size": Files("llava/model.safetensors.index.json", "--max_shard_size", "90KB"),
    "seed": Told("--seed", "8", read=projector,
                 holds=lambda a, b: a.keys() == b.keys() and all((a[n] != b[n]).all() for n in a if "weight" in n)),
    "dry_run": Files("llava/config.json", "--dry_run", there=False),
})

INSPECT = of("inspect", "lisa", {
    "shards": Told("--shards", "{root}/shards-llava", read=lambda run: "recipe llava" in run.output,
                   holds=becomes(True)),
    "verify": Refused("--verify", base=["--shards", "{root}/shards-damaged"], words=["faults in", "shards-damaged"]),
    "show": Files("sample_*.png", "--show"),
    "sample": Told("--sample", "3", base=["--show"], read=shown, holds=becomes(3)),
    "output_dir": Files("elsewhere/sample_*.png", "--output_dir", "{folder}/elsewhere", base=["--show"]),
    "sheet": Files("sheet.png", "--sheet", "{folder}/sheet.png"),
    "sheet_samples": Told("--sheet_samples", "2", base=["--sheet", "{folder}/sheet.png"], read=sheet,
                          holds=lambda a, b: b[0] * b[1] < a[0] * a[1]),
    "seed": Told("--seed", "7", base=["--show"], read=shown, holds=lambda a, b: a != b),
})

REPARAMETERIZE = of("reparameterize", "fastvit", {
    "model": Told("--model", "{golden}/fastvit_timm_branches", read=lambda run: "architecture" in
                  items(run, "folded/config.json"), holds=becomes(True)),
    "output_dir": Files("elsewhere/model.safetensors", "--output_dir", "{folder}/elsewhere"),
})

COMMANDS = {"tokenize": TOKENIZE, "preprocess": PREPROCESS, "compose": COMPOSE, "inspect": INSPECT,
            "reparameterize": REPARAMETERIZE}
