"""The recipes' configuration files in launch/, at toy size on the quickstart's scenes: end to end on two ranks, once whole
and once through a kill and a resume, with the same losses to the last bit.

`launch_files_test.py lisa|llava_pretrain|llava_lora|qwen_llava`
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


def qwen_parts(root):
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
        tie_word_embeddings=False)).save_pretrained(root / "words")
    tokenizer.save(str(root / "words/tokenizer.json"))
    flags = dict(lstrip=False, rstrip=False, single_word=False, normalized=False, special=True)
    first = tokenizer.get_vocab_size() - 3
    (root / "words/tokenizer_config.json").write_text(json.dumps({
        "tokenizer_class": "PreTrainedTokenizerFast", "pad_token": special[0], "eos_token": special[2],
        "added_tokens_decoder": {str(first + i): dict(flags, content=t) for i, t in enumerate(special)}}))
    CLIPVisionModel(CLIPVisionConfig(hidden_size=24, intermediate_size=40, num_hidden_layers=3, num_attention_heads=2,
                                     image_size=28, patch_size=14)).save_pretrained(root / "clip")
    CLIPImageProcessor(size={"shortest_edge": 28}, crop_size=28).save_pretrained(root / "clip")


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
    {f.__name__: f for f in (lisa, llava_pretrain, llava_lora, qwen_llava)}[sys.argv[1]](pathlib.Path(scratch))
