#!/usr/bin/env python3
"""`tessera compose` against transformers: language models and CLIPs that it saved here, at random, become a LLaVA that it
loads whole, whose processor expands images as the model takes them, and whose logits are those of `tessera forward`.
"""
import json
import os
import pathlib
import subprocess
import sys
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
try:
    import numpy as np
    import torch
    from PIL import Image
    from safetensors.torch import load_file, save_file
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, decoders, trainers
    from transformers import (CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPVisionConfig, CLIPVisionModel, LlamaConfig,
                              LlamaForCausalLM, LlavaForConditionalGeneration, LlavaProcessor, MistralConfig,
                              MistralForCausalLM, Qwen2Config, Qwen2ForCausalLM)
except ImportError as missing:
    print(f"could not run here: {missing}")
    sys.exit(77)

SOURCE = pathlib.Path(os.environ["TESSERA_SOURCE_DIR"])
SIZES = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
             max_position_embeddings=256)
CLIP = dict(hidden_size=24, intermediate_size=40, num_hidden_layers=3, num_attention_heads=2, image_size=28, patch_size=7)


def tessera(*arguments):
    done = subprocess.run([os.environ["TESSERA_PROGRAM"], *map(str, arguments)], capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def compose(*arguments):
    status, output = tessera("compose", *arguments)
    assert status == 0, output
    return output


def randomised(model, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, p in sorted(model.named_parameters()):
            p.copy_(torch.randn(p.shape, generator=generator) * 0.2 + (p.dim() == 1))
    return model


def byte_level_tokenizer(folder):
    """A byte-level tokenizer.json in Qwen's manner: three added tokens, padded with <|endoftext|>."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    texts = ["What is in this picture?", "A cat on a red chair, and a dog.", "user assistant system"] * 4
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    first = tokenizer.get_vocab_size() - 3
    flags = dict(lstrip=False, rstrip=False, single_word=False, normalized=False, special=True)
    (folder / "tokenizer_config.json").write_text(json.dumps({
        "tokenizer_class": "PreTrainedTokenizerFast", "pad_token": special[0], "eos_token": special[2],
        "added_tokens_decoder": {str(first + i): dict(flags, content=t) for i, t in enumerate(special)},
        "chat_template": "{% for m in messages %}{{ m['content'] }}{% endfor %}"}))
    return tokenizer.get_vocab_size()


def sentencepiece_tokenizer(folder):
    """LLaMA's form: tokenizer.model alone, no pad token."""
    folder.mkdir(parents=True, exist_ok=True)
    model = SOURCE / "tests/golden/text/models/tok512/tokenizer.model"
    (folder / "tokenizer.model").write_bytes(model.read_bytes())
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer", "legacy": False}))
    return 512


def clip_folder(folder, whole):
    if whole:
        text = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=40)
        model = CLIPModel(CLIPConfig(text_config=text, vision_config=CLIP, projection_dim=8))
    else:
        model = CLIPVisionModel(CLIPVisionConfig(**CLIP))
    randomised(model, 5).save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}).save_pretrained(folder)
    tower = model.vision_model if whole else model.vision_model
    return {f"model.vision_tower.vision_model.{n}": p for n, p in tower.named_parameters()}


def check_against_forward(folder, model, processor, scratch, strategy):
    """Two prompts of different lengths with one picture each, through the processor, on both sides."""
    rng = np.random.default_rng(3)
    pictures = [Image.fromarray(rng.integers(0, 255, (40, 50, 3), np.uint8)) for _ in range(2)]
    batch = processor(images=pictures, text=["A <image> on a chair", "What is in this picture? <image>\nA dog."],
                      padding=True, return_tensors="pt")
    token = model.config.image_token_index
    features = 16 + (strategy == "full")
    assert ((batch["input_ids"] == token).sum(1) == features).all(), (batch["input_ids"], features)
    assert (batch["attention_mask"] == 0).any(), "the shorter prompt should be padded"
    with torch.no_grad():
        wanted = model(**batch).logits
        other = model(**(batch | {"pixel_values": batch["pixel_values"].flip(0)})).logits
    assert wanted.std() > 0.1 and (wanted - other).abs().max() > 1e-3, "the pictures must matter"
    save_file({"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"],
               "pixel_values": batch["pixel_values"].float().contiguous()}, scratch / "inputs.safetensors")
    status, output = tessera("forward", "--model", folder, "--inputs", scratch / "inputs.safetensors", "--outputs",
                             scratch / "outputs.safetensors", "--dtype", "fp32")
    assert status == 0, output
    found = load_file(scratch / "outputs.safetensors")["logits"]
    seen = batch["attention_mask"].bool()
    torch.testing.assert_close(found[seen], wanted[seen], rtol=1e-4, atol=1e-5)
    return (found - wanted)[seen].abs().max().item()


CASES = {
    "qwen2_tied": dict(config=Qwen2Config, model=Qwen2ForCausalLM, tokenizer=byte_level_tokenizer, room=13, tied=True,
                       whole=True, flags=["--max_shard_size", "40KB"], strategy="default"),
    "llama": dict(config=LlamaConfig, model=LlamaForCausalLM, tokenizer=sentencepiece_tokenizer, room=0, tied=False,
                  whole=False, flags=["--mm_vision_select_feature", "cls_patch", "--projector_init", "uniform"],
                  strategy="full"),
    "mistral": dict(config=MistralConfig, model=MistralForCausalLM, tokenizer=sentencepiece_tokenizer, room=0, tied=False,
                    whole=True, flags=["--dtype", "bf16", "--new_token_init", "normal", "--pad_to_multiple_of", "1"],
                    strategy="default"),
}


def check_vocabulary(name, case, own, loaded, base):
    """Old rows are the language model's; new ones their mean, or drawn."""
    for key in ("model.language_model.embed_tokens.weight", "lm_head.weight"):
        short = "model.embed_tokens.weight" if "embed" in key else key
        old, new = own.get(short, own["model.embed_tokens.weight"]), loaded[key]
        assert torch.equal(new[:len(old)], old.to(new.dtype)), (name, key)
        rows = new[len(old):].float()
        if name == "llama":
            assert len(new) == 576 and len(rows) == 64, new.shape
            torch.testing.assert_close(rows, old.mean(0, keepdim=True).expand_as(rows), rtol=1e-5, atol=1e-7)
        elif name == "mistral":
            assert len(new) == 514 and rows.std() < 0.03 and rows.std() > 0.01, (new.shape, rows.std())
        else:
            assert len(rows) == 0 and len(new) == base + case["room"]


def check_case(name, case, scratch):
    torch.manual_seed(1)
    words, tower, out = scratch / "words", scratch / "clip", scratch / "llava"
    base = case["tokenizer"](words)
    config = case["config"](**SIZES, vocab_size=base + case["room"], tie_word_embeddings=case["tied"])
    language = randomised(case["model"](config), 4).eval()
    language.save_pretrained(words)
    tower_weights = clip_folder(tower, case["whole"])
    told = compose("--language_model", words, "--vision_tower", tower, "--output", out, *case["flags"])
    assert not list(scratch.glob(".*")), "something half-written was left"

    written = json.loads((out / "config.json").read_text())
    dtype = "bfloat16" if name == "mistral" else "float32"
    assert {written["torch_dtype"], written["text_config"]["torch_dtype"], written["vision_config"]["torch_dtype"]} == {dtype}
    model, info = LlavaForConditionalGeneration.from_pretrained(out, output_loading_info=True, torch_dtype="auto")
    assert not any(info[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")), info
    assert model.dtype == getattr(torch, dtype)
    processor = LlavaProcessor.from_pretrained(out)
    tokenizer = processor.tokenizer
    image = tokenizer.convert_tokens_to_ids("<image>")
    assert image == base == model.config.image_token_index, (image, base, model.config.image_token_index)
    assert tokenizer.pad_token_id == model.config.pad_token_id == written["pad_token_id"]
    assert tokenizer.pad_token == ("<|endoftext|>" if "qwen2" in name else "<pad>")
    assert f"token {image}" in told and "<image>" in tokenizer.all_special_tokens

    loaded = dict(model.named_parameters(remove_duplicate=False))
    own = {n: p.detach() for n, p in language.named_parameters(remove_duplicate=False)}
    check_vocabulary(name, case, own, loaded, base)
    for key, value in own.items():
        if "embed_tokens" in key or "lm_head" in key:
            continue
        at = "model.language_model." + key.removeprefix("model.")
        assert torch.equal(loaded[at], value.to(loaded[at].dtype)), at
    for key, value in tower_weights.items():
        assert torch.equal(loaded[key], value.to(loaded[key].dtype)), key
    projector = {n: p.float() for n, p in loaded.items() if "multi_modal_projector" in n}
    assert len(projector) == 4
    for key, value in projector.items():
        if name == "llama":  # PyTorch's linear layer
            bound = (24 if "linear_1" in key else 32) ** -0.5
            assert 0.8 * bound < value.abs().max() < bound, key
        else:
            assert (value == 0).all() if "bias" in key else 0.017 < value.std() < 0.023, key
    worst = check_against_forward(out, model.float().eval(), processor, scratch, case["strategy"])
    print(f"{name}: {told.strip().splitlines()[-1]}; largest difference of the logits {worst:.1e}")
    return out


def check_projector_and_seed(scratch, llava):
    """The same request gives the same bytes; another seed another projector; a projector may come from elsewhere."""
    common = ["--language_model", scratch / "words", "--vision_tower", scratch / "clip"]
    compose(*common, "--output", scratch / "again")
    compose(*common, "--output", scratch / "other", "--seed", "7")
    first, other = (load_file(scratch / n / "model.safetensors") for n in ("again", "other"))
    changed = {n for n in first if not torch.equal(first[n], other[n])}
    assert changed == {f"multi_modal_projector.linear_{i}.weight" for i in (1, 2)}, changed
    compose(*common, "--output", scratch / "empty/same")
    assert (scratch / "empty/same/model.safetensors").read_bytes() == (scratch / "again/model.safetensors").read_bytes()
    trained = {f"model.mm_projector.{i}.{k}": torch.randn(32, *([24] if i == 0 else [32]) if k == "weight" else [])
               for i in (0, 2) for k in ("weight", "bias")}
    torch.save(trained, scratch / "mm_projector.bin")
    for number, source in enumerate((scratch / "mm_projector.bin", scratch / "other")):
        out = scratch / f"projector{number}"
        compose(*common, "--output", out, "--projector", source)
        found = load_file(out / "model.safetensors")
        wanted = other if number else {n.replace("model.mm_projector.0", "multi_modal_projector.linear_1").replace(
            "model.mm_projector.2", "multi_modal_projector.linear_2"): v for n, v in trained.items()}
        for key in (n for n in found if "projector" in n):
            assert torch.equal(found[key], wanted[key]), key


def check_refusals(scratch):
    """One line, status 2, nothing left behind."""
    words, tower = scratch / "words", scratch / "clip"
    broken = scratch / "broken"
    broken.mkdir()
    for file in words.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    tensors = load_file(broken / "model.safetensors")
    tensors.pop("model.norm.weight")
    tensors["model.layers.0.mlp.up_proj.weight"] = torch.zeros(3, 4)
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    requests = {
        "no such folder": ["--language_model", scratch / "nowhere", "--vision_tower", tower],
        "a tower for a language model": ["--language_model", tower, "--vision_tower", tower],
        "a language model for a tower": ["--language_model", words, "--vision_tower", words],
        "weights that do not fit": ["--language_model", broken, "--vision_tower", tower],
        "no such layer": ["--language_model", words, "--vision_tower", tower, "--mm_vision_select_layer", "9"],
        "a size without a meaning": ["--language_model", words, "--vision_tower", tower, "--max_shard_size", "5 elephants"],
        "a projector of another model": ["--language_model", words, "--vision_tower", tower, "--projector", words],
    }
    for what, arguments in requests.items():
        status, output = tessera("compose", *arguments, "--output", scratch / "refused")
        assert status == 2 and output.count("\n") == 1, (what, status, output)
        assert not (scratch / "refused").exists() and not list(scratch.glob(".refused*")), what
        if what == "weights that do not fit":
            assert "model.norm.weight' is missing" in output and "up_proj.weight' is [3, 4]" in output, output
    full = scratch / "again"
    before = sorted(p.name for p in full.iterdir())
    status, output = tessera("compose", "--language_model", words, "--vision_tower", tower, "--output", full)
    assert status == 2 and sorted(p.name for p in full.iterdir()) == before, output
    status, output = tessera("compose", "--language_model", words, "--vision_tower", tower, "--output",
                             scratch / "refused", "--dry_run")
    assert status == 0 and "nothing was written" in output and not (scratch / "refused").exists(), output


with tempfile.TemporaryDirectory() as folder:
    for name, case in CASES.items():
        own = pathlib.Path(folder) / name
        own.mkdir()
        out = check_case(name, case, own)
    check_projector_and_seed(pathlib.Path(folder) / "qwen2_tied", out)
    check_refusals(pathlib.Path(folder) / "qwen2_tied")
