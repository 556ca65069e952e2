"""Goldens of the LoRA family by PEFT: patterns of targets, ranks and alphas, layer indices, DoRA, modules_to_save,
PiSSA, OLoRA, embeddings, lora_bias, the base's biases. `lora_clip_conv` is an adapter for clip_28px with its patch
embedding, and its outputs there; `lora_llava` one for llava_hf_llama, whose modules' names in PEFT's file are not those of transformers' files.

See peft_common.py. Gradients are those of the adapter's own tensors alone; a few steps of training follow.
"""
import torch
from common import DATA
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from peft_common import (SMALL, base_model, disturb, run_steps, save_adapter, save_steps, text_inputs, trained,
                         write_adapter_case)
from safetensors.torch import load_file, save_file
from transformers import (CLIPVisionModel, LlamaConfig, LlamaForCausalLM, LlavaForConditionalGeneration, Qwen2Config,
                          Qwen2ForCausalLM)

STEPS = 4

CASES = {
    "lora_regex_patterns": (
        LlamaConfig, LlamaForCausalLM,
        dict(r=3, lora_alpha=7, use_rslora=True, target_modules=r".*\.(self_attn\.[qk]_proj|mlp\.down_proj)",
             rank_pattern={"k_proj": 2, r"model\.layers\.0\.mlp\.down_proj": 5},
             alpha_pattern={r"^model\.layers\.1\.self_attn\.q_proj": 9, "down_proj": 3})),
    "lora_layer_indices": (
        LlamaConfig, LlamaForCausalLM,
        dict(r=4, lora_alpha=6, init_lora_weights="gaussian", target_modules=["q_proj", "up_proj", "o_proj", "lm_head"],
             exclude_modules=["layers.1.mlp.up_proj"], layers_to_transform=[1], layers_pattern=["layers"])),
    "lora_modules_to_save": (
        LlamaConfig, LlamaForCausalLM,
        dict(r=2, lora_alpha=3, target_modules=["v_proj", "gate_proj"],
             modules_to_save=["lm_head", "embed_tokens", "model.norm"])),
    "dora_all_linear": (
        Qwen2Config, Qwen2ForCausalLM, dict(r=3, lora_alpha=5, use_dora=True, target_modules="all-linear")),
    "dora_rslora_some": (
        LlamaConfig, LlamaForCausalLM,
        dict(r=4, lora_alpha=5, use_dora=True, use_rslora=True, target_modules=["q_proj", "down_proj"],
             rank_pattern={"q_proj": 2})),
    "lora_pissa": (
        LlamaConfig, LlamaForCausalLM,
        dict(r=3, lora_alpha=7, init_lora_weights="pissa", target_modules=["q_proj", "v_proj", "down_proj"],
             rank_pattern={"v_proj": 5})),
    "lora_olora": (
        LlamaConfig, LlamaForCausalLM,
        dict(r=4, lora_alpha=5, use_rslora=True, init_lora_weights="olora", target_modules=["k_proj", "v_proj"])),
    "lora_embedding": (
        LlamaConfig, LlamaForCausalLM,
        dict(r=3, lora_alpha=4, target_modules=["embed_tokens", "o_proj"], rank_pattern={"o_proj": 2})),
}
LORA_BIAS = (Qwen2Config, Qwen2ForCausalLM,
             dict(r=2, lora_alpha=5, lora_bias=True, init_lora_weights=False, target_modules=["q_proj", "v_proj"]))
BASE_BIAS = (Qwen2Config, Qwen2ForCausalLM,
             dict(r=3, lora_alpha=4, bias="all", target_modules=["q_proj", "down_proj"], modules_to_save=["k_proj"]))


def change(name, p, noise):
    if "lora_magnitude" in name:
        p.mul_(1 + 0.2 * noise)
    else:
        p.add_(0.2 * noise)


def make(seed, name, config_class, model_class, lora):
    base, settings, weights = base_model(config_class, model_class, SMALL, 80 + seed)
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **lora))
    disturb(model, 90 + seed, change)
    inputs = text_inputs(SMALL["vocab_size"], 8 + seed, padded=2)
    out = model(**inputs)
    out.loss.backward()
    expected = {"logits": out.logits, "loss": out.loss}
    expected |= {"grad." + n: p.grad.clone() for n, p in trained(model).items()}
    start = {n: p.detach().clone() for n, p in trained(model).items()}
    losses = run_steps(model, inputs, STEPS)
    # PEFT saves the vocabulary's weights too where one of its layers is a target.
    assert trained(model).keys() <= get_peft_model_state_dict(model).keys(), name
    after = {n: p.detach().clone() for n, p in trained(model).items()}
    with torch.no_grad():
        for n, p in trained(model).items():
            p.copy_(start[n])
    folder = write_adapter_case(name, settings, weights, inputs, expected, model)
    save_steps(losses, after, folder)


def make_clip(name, seed):
    base = CLIPVisionModel.from_pretrained(DATA / "clip_28px", attn_implementation="eager", dtype=torch.float32)
    model = get_peft_model(base, LoraConfig(r=3, lora_alpha=5, target_modules=["patch_embedding", "q_proj", "fc2"]))
    disturb(model, seed, change)
    inputs = load_file(DATA / "clip_28px" / "inputs.safetensors")
    selected = model(inputs["pixel_values"], output_hidden_states=True).hidden_states[-2]
    loss = (selected * inputs["cotangent"]).sum()
    loss.backward()
    folder = DATA / name
    folder.mkdir(exist_ok=True)
    grads = {"grad." + n: p.grad for n, p in trained(model).items() if p.grad is not None}
    save_file({"selected.cls_patch": selected.detach().clone(), "loss": loss.detach()} | grads,
              folder / "expected.safetensors")
    save_adapter(model, folder / "adapter")


def make_llava(name, seed):
    base = LlavaForConditionalGeneration.from_pretrained(DATA / "llava_hf_llama", attn_implementation="eager",
                                                         dtype=torch.float32)
    torch.manual_seed(seed)
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", r=2, lora_alpha=5, target_modules=["q_proj", "fc1"],
                                            modules_to_save=["multi_modal_projector"]))
    disturb(model, seed, change)
    out = model(**load_file(DATA / "llava_hf_llama" / "inputs.safetensors"))
    folder = DATA / name
    folder.mkdir(exist_ok=True)
    save_file({"logits": out.logits.detach().clone(), "loss": out.loss.detach()}, folder / "expected.safetensors")
    save_adapter(model, folder / "adapter")


for seed, (name, case) in enumerate(CASES.items()):
    make(seed, name, *case)
make_clip("lora_clip_conv", 180)
make(len(CASES), "lora_bias", *LORA_BIAS)
make_llava("lora_llava", 190)
make(len(CASES) + 1, "lora_base_bias", *BASE_BIAS)
