"""The recipes' configuration files in launch/, at toy size on the quickstart's scenes: end to end on two ranks, once whole
and once through a kill and a resume, with the same losses to the last bit.

`launch_files_test.py lisa|llava_pretrain|llava_lora|llava_qlora|qwen_llava|fastvlm`
"""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

os.environ["HF_HUB_OFFLINE"] = "1"
SOURCE = pathlib.Path(os.environ["TESSERA_SOURCE_DIR"])
PROGRAM = os.environ["TESSERA_PROGRAM"]
sys.path.insert(0, str(SOURCE / "tests/support"))
from llama_weights import write_llama  # noqa: E402

ENVIRONMENT = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1", OMP_NUM_THREADS="1")
STEPS = 24
LLAMA = {"model_type": "llama", "vocab_size": 640, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-5, "initializer_range": 0.1,
         "max_position_embeddings": 512, "hidden_act": "silu", "tie_word_embeddings": False}


def command(ranks, *arguments):
    launcher = [os.environ.get("TESSERA_MPIEXEC", "mpirun"), "--oversubscribe", "--bind-to", "none", "-n", str(ranks)]
    return [*launcher, PROGRAM, *map(str, arguments)]


def tessera(ranks, *arguments):
    done = subprocess.run(command(ranks, *arguments), env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, f"{arguments}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout + done.stderr


def with_children(pid):
    found = [pid]
    for line in subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True).stdout.splitlines():
        own, parent = map(int, line.split())
        if parent == pid:
            found += with_children(own)
    return found


def series(folder, key):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line[key] for line in lines if key in line}


def through_a_kill(runs, *arguments):
    """A whole run and a killed one that goes on; returns the latter's folder."""
    flags = ["train", *arguments, "--log_base_dir", runs, "--max_steps", STEPS, "--save_steps", 4]
    tessera(2, *flags, "--exp_name", "whole")
    killed = runs / "killed"
    with subprocess.Popen(command(2, *flags, "--exp_name", "killed"), env=ENVIRONMENT, stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL) as job:
        deadline = time.monotonic() + 120
        while not list(killed.glob("checkpoints/step-*/manifest.json")) and time.monotonic() < deadline:
            time.sleep(0.01)
        for pid in with_children(job.pid):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
    assert not list(killed.glob("checkpoints/step-%d" % STEPS)), "the job had ended before it was killed"
    assert list(killed.glob("checkpoints/step-*/manifest.json")), "no checkpoint came in time"
    tessera(2, *flags, "--exp_name", "killed")
    for key in ("loss", "grad_norm"):
        whole, resumed = series(runs / "whole", key), series(killed, key)
        assert sorted(whole) == list(range(1, STEPS + 1)) and whole == resumed, (key, whole, resumed)
    losses = series(killed, "loss")
    assert losses[STEPS] < losses[1], ("nothing was learned", losses)
    print(f"loss {losses[1]:.4f} -> {losses[STEPS]:.4f}, the same through a kill")
    return killed


def make_scenes(root):
    subprocess.run([sys.executable, SOURCE / "launch/make_scenes.py", "--out", root / "scenes", "--size", "64", "--train",
                    "12", "--train_describe", "4", "--val", "4"], check=True, capture_output=True)


def make_captions(root):
    """The scenes' questions as LLaVA's conversations."""
    folder = root / "scenes/reason_seg/ReasonSeg/train_names"
    records = []
    for path in sorted(folder.glob("*.json")):
        text = json.loads(path.read_text())["text"]
        text = text[0] if isinstance(text, list) else text
        turns = [{"from": "human", "value": "<image>\nWhat is in the picture?"}, {"from": "gpt", "value": f"A {text}."}]
        records.append({"id": path.stem, "image": path.with_suffix(".jpg").name, "conversations": turns})
    assert len(records) >= 12
    (root / "chat.json").write_text(json.dumps(records))
    return folder


def prepare_lists(root, model, template, name):
    """The captions in two lists of one file name, each with a folder of its own, the second longer."""
    pictures = make_captions(root)
    records = json.loads((root / "chat.json").read_text())
    files, folders = [], []
    for part, own in (("dense", records[:5]), ("more", records[5:])):
        folder = root / name / part
        (folder / "pictures").mkdir(parents=True)
        for record in own:
            shutil.copy(pictures / record["image"], folder / "pictures")
        (folder / "train.json").write_text(json.dumps(own))
        files.append(folder / "train.json")
        folders.append(folder / "pictures")
    tessera(2, "prepare", "--version", model, "--dataset", "llava", "--data_path", *files, "--image_folder", *folders,
            "--conv_type", template, "--draws", 1, "--val_dataset", "", "--output_dir", root / name)
    made = json.loads((root / name / "manifest.json").read_text())
    assert sum(shard["samples"] for shard in made["shards"]) == len(records) and not made["skipped"], made


def prepare_captions(root, model, template):
    tessera(1, "prepare", "--version", model, "--dataset", "llava", "--data_path", root / "chat.json", "--image_folder",
            make_captions(root), "--conv_type", template, "--draws", 1, "--val_dataset", "", "--output_dir",
            root / "shards")


def toy_llava(root):
    (root / "base").mkdir()
    (root / "base/config.json").write_text(json.dumps(LLAMA))
    shutil.copy(SOURCE / "launch/toy/lisa/tokenizer.model", root / "base")
    write_llama(root / "base", LLAMA)
    clip = SOURCE / "launch/toy/lisa/clip"
    return ["--version", root / "base", "--vision_tower", clip, "--random_init", "--shards", root / "shards", "--precision",
            "fp32", "--batch_size", 1, "--global_batch_size", 4, "--workers", 1]


def lisa(root):
    model = SOURCE / "launch/toy/lisa"
    tessera(2, "prepare", "--version", model, "--dataset_dir", root / "scenes", "--reason_seg_data",
            "ReasonSeg|train_names", "--val_dataset", "ReasonSeg|val_names", "--explanatory", -1, "--output_dir",
            root / "shards")
    flags = ["--config", SOURCE / "launch/lisa_13b_lora.toml", "--vision_tower", model / "clip", "--vision_pretrained", "",
             "--precision", "fp32", "--out_dim", 64, "--shards", root / "shards", "--val_shards", root / "shards",
             "--dataset", "", "--sample_rates", "", "--batch_size", 1, "--global_batch_size", 4, "--workers", 1,
             "--warmup_steps", 4, "--vis_samples", 0]
    folder = through_a_kill(root / "runs", *flags, "--version", model, "--random_init")
    assert (folder / "adapter/adapter_model.safetensors").exists()
    tessera(2, "eval", "--version", folder / "merged", "--val_shards", root / "shards", "--output", root / "eval.json")
    assert abs(json.loads((root / "eval.json").read_text())["giou"] - series(folder, "val_giou")[STEPS]) < 2e-3
    # Going on from a finished LISA keeps what it learned, [SEG]'s projection and the mask decoder with it.
    tessera(2, "train", *flags, "--version", folder / "merged", "--lr", 0, "--max_steps", 1, "--log_base_dir", root,
            "--exp_name", "further")
    from safetensors.numpy import load_file

    finished, further = (load_file(run / "merged/model.safetensors") for run in (folder, root / "further"))
    kept = [name for name in finished if "text_hidden_fcs" in name or "mask_decoder" in name]
    assert len(kept) > 50 and all((finished[name] == further[name]).all() for name in kept)


def llava_pretrain(root):
    toy = toy_llava(root)
    prepare_captions(root, root / "base", "plain")
    folder = through_a_kill(root / "runs", "--config", SOURCE / "launch/llava_pretrain.toml", *toy)
    import torch

    projector = torch.load(folder / "mm_projector.bin", weights_only=True)
    assert set(projector) == {f"model.mm_projector.{i}.{k}" for i in (0, 2) for k in ("weight", "bias")}


def llava_lora(root):
    toy = toy_llava(root)
    prepare_captions(root, root / "base", "v1")
    tessera(2, "train", "--config", SOURCE / "launch/llava_pretrain.toml", *toy, "--max_steps", 2, "--log_base_dir", root)
    folder = through_a_kill(root / "runs", "--config", SOURCE / "launch/llava_lora.toml", *toy, "--lora_r", 4,
                            "--pretrain_mm_mlp_adapter", root / "llava-pretrain/mm_projector.bin")
    for name in ("adapter/adapter_model.safetensors", "adapter/non_lora_trainables.bin", "merged/config.json"):
        assert (folder / name).exists(), name


def llava_qlora(root):
    toy = toy_llava(root)
    prepare_captions(root, root / "base", "v1")
    flags = ["--config", SOURCE / "launch/llava_qlora.toml", *toy, "--lora_r", 4, "--pretrain_mm_mlp_adapter", ""]
    told = tessera(2, "train", *flags, "--max_steps", 1, "--log_base_dir", root)
    assert "nf4 with double quantisation" in told, told
    folder = through_a_kill(root / "runs", *flags)
    for name in ("adapter/adapter_model.safetensors", "adapter/non_lora_trainables.bin"):
        assert (folder / name).exists(), name
    # What did not train is merged as its bits stand for it: at most 16 values in a block of 64, times its scale.
    from safetensors.torch import load_file

    base, merged = load_file(root / "base/model.safetensors"), load_file(folder / "merged/model.safetensors")
    assert (base["model.norm.weight"] == merged["model.norm.weight"]).all()
    written = load_file(folder / "adapter/adapter_model.safetensors")
    name = "model.layers.0.mlp.up_proj"
    lora = [written[f"base_model.model.{name}.lora_{part}.weight"] for part in "BA"]
    config = json.loads((folder / "adapter/adapter_config.json").read_text())
    own = merged[f"{name}.weight"] - config["lora_alpha"] / config["r"] * lora[0] @ lora[1]
    for block in own.flatten().split(64):
        steps = (block / block.abs().max()).mul(1000).round().unique()
        assert 4 < len(steps) <= 16, steps
    print("the base is of four bits")


def qwen_parts(root, tied=False):
    """A Qwen2 with a byte-level tokenizer in Qwen's manner, and a CLIP, as transformers saves them."""
    import torch
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel, Qwen2Config, Qwen2ForCausalLM

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.train_from_iterator(["What is in the picture?", "user assistant system"] * 4, trainers.BpeTrainer(
        vocab_size=280, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    torch.manual_seed(5)
    Qwen2ForCausalLM(Qwen2Config(
        vocab_size=tokenizer.get_vocab_size() + 5, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512, initializer_range=0.1,
        tie_word_embeddings=tied)).save_pretrained(root / "words")
    tokenizer.save(str(root / "words/tokenizer.json"))
    flags = dict(lstrip=False, rstrip=False, single_word=False, normalized=False, special=True)
    first = tokenizer.get_vocab_size() - 3
    (root / "words/tokenizer_config.json").write_text(json.dumps({
        "tokenizer_class": "PreTrainedTokenizerFast", "pad_token": special[0], "eos_token": special[2],
        "added_tokens_decoder": {str(first + i): dict(flags, content=t) for i, t in enumerate(special)}}))
    CLIPVisionModel(CLIPVisionConfig(hidden_size=24, intermediate_size=40, num_hidden_layers=3, num_attention_heads=2,
                                     image_size=28, patch_size=14)).save_pretrained(root / "clip")
    CLIPImageProcessor(size={"shortest_edge": 28}, crop_size=28).save_pretrained(root / "clip")


def fastvit_part(root):
    """A tower as it is before it has seen a language model: the golden's, whose sizes are in its weights."""
    from safetensors.torch import load_file, save_file

    golden = load_file(SOURCE / "tests/golden/models/data/fastvlm_apple/model.safetensors")
    inside = "model.vision_tower.vision_tower."
    (root / "tower").mkdir()
    (root / "tower/config.json").write_text(json.dumps({"model_type": "fastvithd", "image_size": 32}))
    tower = {n.removeprefix(inside): v.clone() for n, v in golden.items() if n.startswith(inside)}
    save_file(tower, root / "tower/model.safetensors", metadata={"format": "pt"})
    return {inside + n: v for n, v in tower.items() if not n.endswith("num_batches_tracked")}


PARTS = {"embed_tokens", "layers", "mm_projector", "vision_tower"}


def moved(before, after):
    """Which parts of a model another one has otherwise."""
    assert set(before) == set(after), set(before) ^ set(after)
    return {part for part in PARTS for n in before if f".{part}." in n and not (before[n] == after[n]).all()}


def as_published(model, folder):
    """The form of the folders that ml-fastvlm's get_models.sh fetches: bf16, the tower's counters and its unused head with
    the rest, the tokenizer as its vocabulary and merges, and settings of transformers 4.39."""
    import torch
    from safetensors.torch import load_file, save_file

    weights = {n: v.bfloat16() for n, v in load_file(model / "model.safetensors").items()}
    counters = {n.replace("running_var", "num_batches_tracked"): torch.tensor(7) for n in weights if n.endswith("running_var")}
    assert counters and any(n.endswith("model.head.proj") for n in weights)
    folder.mkdir()
    save_file(weights | counters, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((model / "config.json").read_text()) | {
        "torch_dtype": "bfloat16", "transformers_version": "4.39.3", "tune_mm_mlp_adapter": False, "image_grid_pinpoints": None,
        "freeze_mm_mlp_adapter": False, "mm_patch_merge_type": "flat", "mm_projector_lr": None, "use_sliding_window": False,
        "max_window_layers": 24, "sliding_window": 32768, "tokenizer_model_max_length": 8192, "tokenizer_padding_side": "right",
        "mm_use_im_start_end": False, "mm_use_im_patch_token": False, "attention_dropout": 0.0}
    (folder / "config.json").write_text(json.dumps(config))
    words = json.loads((model / "tokenizer.json").read_text())
    (folder / "vocab.json").write_text(json.dumps(words["model"]["vocab"]))
    merges = [m if isinstance(m, str) else " ".join(m) for m in words["model"]["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    settings = json.loads((model / "tokenizer_config.json").read_text()) | {"tokenizer_class": "Qwen2Tokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    added = {t["content"]: t["id"] for t in words["added_tokens"]}
    (folder / "added_tokens.json").write_text(json.dumps(added))
    return folder


def fastvlm(root):
    """All stages, each from what the one before left: projector alone, then the tower with everything at another size of
    picture, on lists of files; stage three in a folder as Apple publishes it, in full and with LoRA."""
    from safetensors.torch import load_file

    qwen_parts(root, tied=True)
    tower = fastvit_part(root)
    prepare_captions(root, root / "words", "plain")
    prepare_lists(root, root / "words", "qwen_2", "lists")
    flags = ["--precision", "fp32", "--workers", 1, "--batch_size", 1, "--global_batch_size", 4]

    def stage(name, shards, version, *own, kill=True):
        arguments = ["--config", SOURCE / f"launch/fastvlm_{name}.toml", "--version", version, "--shards", root / shards]
        arguments += [*flags, *own]
        folder = pathlib.Path(tempfile.mkdtemp(dir=root))
        if kill:
            folder = through_a_kill(root / name, *arguments)
        else:
            tessera(2, "train", *arguments, "--max_steps", 4, "--output_dir", folder)
        folder = folder / "merged"
        config = json.loads((folder / "config.json").read_text())
        assert config["model_type"] == "llava_qwen2" and config["unfreeze_mm_vision_tower"] is True, config
        return folder, load_file(folder / "model.safetensors"), config

    first, weights, _ = stage("stage1", "shards", root / "words", "--vision_tower", root / "tower")
    words = load_file(root / "words/model.safetensors")
    assert all((weights[n] == v).all() for n, v in (words | tower).items()), "more than the projector trained"

    wide = ["--vision_tower", "mobileclip_l_64"]
    rate = ["--lr", 2e-3]  # 24 steps are few
    second, wider, config = stage("stage1_5", "lists", first, *wide, *rate)
    assert config["mm_vision_tower"] == "mobileclip_l_64" and "lm_head.weight" not in wider, config
    assert moved(weights, wider) == PARTS
    # It began in what stage one saved: with a rate of 0 that is what it leaves.
    assert not moved(weights, stage("stage1_5", "lists", first, *wide, "--lr", 0, kill=False)[1])

    third, tuned, config = stage("stage2", "lists", second, *rate, kill=False)
    assert config["mm_vision_tower"] == "mobileclip_l_64" and moved(wider, tuned) == PARTS, config

    published = as_published(third, root / "published")
    prepare_lists(root, published, "qwen_2", "published_lists")
    _, last, _ = stage("stage3", "published_lists", published, *rate)
    bare = {n: v.float() for n, v in load_file(published / "model.safetensors").items() if n in last}
    assert moved(bare, last) == PARTS
    # AdamW's steps are of the size of the rate, and the tower has its own in that file.
    way = {part: max((last[n] - bare[n]).abs().max() for n in bare if f".{part}." in n) for part in ("layers", "vision_tower")}
    assert way["vision_tower"] < 24 * 2e-6 * 5 < 0.05 * way["layers"], way
    lora = ["--lora_enable", "--lora_r", 4, "--lora_alpha", 8, "--lr", 2e-3, "--mm_projector_lr", 2e-4,
            "--mm_vision_tower_lr", 0]
    _, adapted, _ = stage("stage3", "published_lists", published, *lora, kill=False)
    assert moved(bare, adapted) == {"layers", "mm_projector"}


def qwen_llava(root):
    qwen_parts(root)
    model = root / "llava"
    tessera(1, "compose", "--language_model", root / "words", "--vision_tower", root / "clip", "--output", model)
    prepare_captions(root, model, "qwen_2")
    folder = through_a_kill(root / "runs", "--config", SOURCE / "launch/qwen_llava.toml", "--version", model, "--shards",
                            root / "shards", "--precision", "fp32", "--workers", 1, "--warmup_steps", 4)

    import torch
    from peft import PeftModel
    from PIL import Image
    from transformers import LlavaForConditionalGeneration, LlavaProcessor

    written = json.loads((folder / "adapter/adapter_config.json").read_text())
    assert (written["r"], written["lora_alpha"], written["modules_to_save"]) == (4, 8, ["multi_modal_projector"])
    base = LlavaForConditionalGeneration.from_pretrained(model)
    before = {n: p.clone() for n, p in base.named_parameters()}
    adapted = PeftModel.from_pretrained(base, folder / "adapter")
    lora = [n for n, _ in adapted.named_parameters() if "lora_" in n]
    assert len(lora) == 2 * 2 * 2 and all("language_model" in n for n in lora), lora
    merged, info = LlavaForConditionalGeneration.from_pretrained(folder / "merged", output_loading_info=True)
    assert not any(info[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    moved = {n.split(".")[1] for n, p in merged.named_parameters() if not torch.equal(p, before[n])}
    assert moved == {"language_model", "multi_modal_projector"}, moved
    processor = LlavaProcessor.from_pretrained(folder / "merged")
    picture = Image.open(next((root / "scenes/reason_seg/ReasonSeg/train_names").glob("*.jpg")))
    batch = processor(images=picture, text="<image>\nWhat is in the picture?", return_tensors="pt")
    with torch.no_grad():
        got, want = adapted(**batch).logits, merged(**batch).logits
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    print("PEFT loads the adapter over transformers' Llava; logits as those of the merged model")


with tempfile.TemporaryDirectory() as scratch:
    make_scenes(pathlib.Path(scratch))
    {f.__name__: f for f in (lisa, llava_pretrain, llava_lora, llava_qlora, qwen_llava, fastvlm)}[sys.argv[1]](pathlib.Path(scratch))
