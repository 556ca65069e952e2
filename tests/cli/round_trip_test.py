#!/usr/bin/env python3
"""`tessera merge` without an adapter: models of every family, in each public file form and type, are saved anew; their
public package loads what was written, and every tensor has the bytes it had. What no package here loads (LISA, LLaVA in
its own form, FastVLM, SAM under facebook's names) is compared by the names in its files.
"""
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
try:
    import torch
    import transformers as hf
    from safetensors.torch import load_file, save_file
except ImportError as missing:
    print(f"could not run here: {missing}")
    sys.exit(77)

SOURCE = pathlib.Path(os.environ["TESSERA_SOURCE_DIR"])
GOLDEN = SOURCE / "tests/golden/models/data"
TYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
TEXT = dict(vocab_size=512, hidden_size=24, intermediate_size=36, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=64)
CLIP = dict(hidden_size=16, intermediate_size=28, num_hidden_layers=2, num_attention_heads=2, image_size=20, patch_size=10)
SAM = dict(vision_config=dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=64, mlp_dim=32,
                              output_channels=16, global_attn_indexes=[1], window_size=3, num_pos_feats=8),
           prompt_encoder_config=dict(hidden_size=16, image_size=64, mask_input_channels=8),
           mask_decoder_config=dict(hidden_size=16, mlp_dim=24, num_attention_heads=2, iou_head_hidden_dim=12))


def llava(text):
    return hf.LlavaForConditionalGeneration(hf.LlavaConfig(
        text_config=text, vision_config=hf.CLIPVisionConfig(**CLIP), image_token_index=500))


MODELS = {
    "llama": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**TEXT)),
    "qwen2_tied": lambda: hf.Qwen2ForCausalLM(hf.Qwen2Config(**TEXT, tie_word_embeddings=True)),
    "mistral": lambda: hf.MistralForCausalLM(hf.MistralConfig(**TEXT)),
    "mpt": lambda: hf.MptForCausalLM(hf.MptConfig(d_model=15, n_heads=3, n_layers=2, vocab_size=512, max_seq_len=64)),
    "clip": lambda: hf.CLIPVisionModel(hf.CLIPVisionConfig(**CLIP)),
    "sam": lambda: hf.SamModel(hf.SamConfig(**SAM)),
    "llava_llama": lambda: llava(hf.LlamaConfig(**TEXT)),
    "llava_qwen2": lambda: llava(hf.Qwen2Config(**TEXT)),
    "llava_mpt": lambda: llava(hf.MptConfig(d_model=15, n_heads=3, n_layers=2, vocab_size=512, max_seq_len=64)),
}
GOLDENS = ["lisa_linear", "lisa_qwen2", "lisa_mpt", "llava_original_llama", "llava_original_qwen2", "llava_original_mpt",
           "fastvlm_apple", "fastvlm_transformers", "fastvit_apple_branches", "sam_facebook_names",
           "llava_original_llama_identity", "lisa_qwen2_tied"]


def bytes_of(tensor):
    return tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def same(name, found, wanted):
    assert set(found) == set(wanted), (name, set(found) ^ set(wanted))
    for key, tensor in wanted.items():
        assert found[key].dtype == tensor.dtype and found[key].shape == tensor.shape, (name, key)
        assert bytes_of(found[key]) == bytes_of(tensor), (name, key)
    return len(wanted)


def save_anew(model, output, shard, *more):
    done = subprocess.run([os.environ["TESSERA_PROGRAM"], "merge", "--model", str(model), "--output", str(output),
                           "--max_shard_size", shard, *map(str, more)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def weights_in(folder, limit):
    """All tensors of the safetensors files; no file holds more than `limit` bytes unless it is one tensor's."""
    out = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors = load_file(file)
        size = sum(t.numel() * t.element_size() for t in tensors.values())
        assert size <= limit or len(tensors) == 1, (file.name, size)
        assert not out.keys() & tensors.keys()
        out |= tensors
    return out


def check_tokenizer(theirs, ours):
    for name in ("tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"):
        assert (theirs / name).read_bytes() == (ours / name).read_bytes(), name
    text = "A cat <pad> on a chair"
    ids = [hf.AutoTokenizer.from_pretrained(f, use_fast=False)(text)["input_ids"] for f in (theirs, ours)]
    assert ids[0] == ids[1] and len(ids[0]) > 5, ids


def in_transformers(scratch):
    tokenizer = hf.LlamaTokenizer(str(SOURCE / "tests/golden/text/models/tok512/tokenizer.model"), pad_token="<pad>")
    forms = [dict(safe_serialization=True), dict(safe_serialization=True, max_shard_size="9KB"),
             dict(safe_serialization=False), dict(safe_serialization=False, max_shard_size="9KB")]
    for number, (name, make) in enumerate(MODELS.items()):
        for turn, (word, dtype) in enumerate(TYPES.items()):
            torch.manual_seed(number)
            model = make().to(dtype)
            theirs, ours = scratch / f"{name}-{word}", scratch / f"{name}-{word}-again"
            model.save_pretrained(theirs, **forms[(number + turn) % 4])
            tokenizer.save_pretrained(theirs)
            limit = 10**9 if turn == 1 else 20_000
            save_anew(theirs, ours, str(limit))
            weights_in(ours, limit)
            again, info = type(model).from_pretrained(ours, dtype="auto", output_loading_info=True)
            assert not any(info.values()), (name, info)
            count = same(name, again.state_dict(), model.state_dict())
            assert again.dtype == dtype and again.config.to_dict() | {"_name_or_path": "", "dtype": ""} == \
                model.config.to_dict() | {"_name_or_path": "", "dtype": ""}, name
        check_tokenizer(theirs, ours)
        print(f"{name}: {count} tensors, each in {', '.join(TYPES)}")


def recast(source, target, dtype, form):
    """A golden's folder with its weights in another type and file form. Returns them by their names in the files."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("expected.*", "inputs.*", "model.safetensors"))
    weights = {n: t.to(dtype) if t.is_floating_point() else t for n, t in load_file(source / "model.safetensors").items()}
    if form == "safetensors":
        save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    else:
        torch.save(weights, target / "pytorch_model.bin", _use_new_zipfile_serialization=form == "zip")
    return weights


def by_name(scratch):
    for number, name in enumerate(GOLDENS):
        for turn, (word, dtype) in enumerate(TYPES.items()):
            theirs, ours = scratch / f"{name}-{word}", scratch / f"{name}-{word}-again"
            wanted = recast(GOLDEN / name, theirs, dtype, ["safetensors", "zip", "old"][(number + turn) % 3])
            limit = 10**9 if turn == 1 else 20_000
            save_anew(theirs, ours, str(limit))
            count = same(name, weights_in(ours, limit), wanted)
            assert json.loads((ours / "config.json").read_text()) == json.loads((theirs / "config.json").read_text())
            for file in theirs.rglob("*"):
                if file.is_file() and file.suffix not in (".safetensors", ".bin") and file.name != "config.json":
                    assert (ours / file.relative_to(theirs)).read_bytes() == file.read_bytes(), file
        print(f"{name}: {count} tensors, each in {', '.join(TYPES)}")


def adapter_on_a_language_model(scratch):
    """What LLaVA's LoRA stage leaves beside a bare language model becomes a LLaVA."""
    base, adapter, ours = scratch / "words", scratch / "adapter", scratch / "merged"
    language = hf.LlamaForCausalLM(hf.LlamaConfig(**TEXT)).bfloat16()
    language.save_pretrained(base)
    layer = "base_model.model.model.layers.1.self_attn.q_proj"
    lora = {f"{layer}.lora_A.weight": torch.randn(2, 24), f"{layer}.lora_B.weight": torch.randn(24, 2)}
    adapter.mkdir()
    save_file(lora, adapter / "adapter_model.safetensors")
    (adapter / "adapter_config.json").write_text(json.dumps(
        {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "lora_dropout": 0.0, "target_modules": ["q_proj"], "bias": "none"}))
    projector = torch.randn(24, 16)
    torch.save({"base_model.model.model.mm_projector.weight": projector}, adapter / "non_lora_trainables.bin")
    config = json.loads((base / "config.json").read_text()) | {
        "model_type": "llava_llama", "architectures": ["LlavaLlamaForCausalLM"], "mm_vision_tower": "openai/clip",
        "torch_dtype": "float16"}
    (adapter / "config.json").write_text(json.dumps(config))
    save_anew(base, ours, "5GB", "--adapter", adapter)
    found, wanted = weights_in(ours, 10**9), dict(language.state_dict())
    q = "model.layers.1.self_attn.q_proj.weight"
    delta = 2 * lora[f"{layer}.lora_B.weight"] @ lora[f"{layer}.lora_A.weight"]
    torch.testing.assert_close(found.pop(q), (wanted.pop(q).float() + delta).bfloat16(), rtol=1e-2, atol=1e-3)
    assert torch.equal(found.pop("model.mm_projector.weight"), projector)
    same("adapter", found, wanted)
    told = json.loads((ours / "config.json").read_text())
    assert told["model_type"] == "llava_llama" and told["mm_vision_tower"] == "openai/clip", told
    assert told["dtype"] == "bfloat16" and "torch_dtype" not in told, told


def lisa_v0(scratch):
    """SAM and the projection of [SEG] stay in files of their own."""
    ours = scratch / "v0"
    save_anew(GOLDEN / "lisa_v0", ours, "5GB")
    wanted = torch.load(GOLDEN / "lisa_v0/pytorch_model.bin")
    same("lisa_v0", weights_in(ours, 10**9), wanted)
    for name in ("pytorch_model-visual_model.bin", "pytorch_model-text_hidden_fcs.bin"):
        assert (ours / name).read_bytes() == (GOLDEN / "lisa_v0" / name).read_bytes()
    print(f"lisa_v0: {len(wanted)} tensors, and two files as they were")


with tempfile.TemporaryDirectory() as folder:
    in_transformers(pathlib.Path(folder))
    by_name(pathlib.Path(folder))
    lisa_v0(pathlib.Path(folder))
    adapter_on_a_language_model(pathlib.Path(folder))
