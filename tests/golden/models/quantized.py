"""QLoRA goldens: PEFT over transformers' LlamaForCausalLM whose linear layers, the output layer apart, are bitsandbytes'.

Made with torch 2.11.0 (CPU), transformers 4.57.6, peft 0.18.1, bitsandbytes 0.50.2, safetensors 0.7.0; set
TORCHDYNAMO_DISABLE=1. fp32, no dropout; int8 in evaluation, where Linear8bitLt quantises activations on a CPU as it does
on a GPU. Its int8 part is scaled there by 6.200124e-05 for 1 / 127^2 = 6.200012e-05, which its GPU's kernel has; the
script takes the latter, since 2e-5 in one layer are other codes in the next. Seeds are such that noise of 1e-6 in every
layer's input changes no code, which the script checks.

Each case is a base model's folder in fp32 with PEFT's own adapter folder `adapter` beside the weights; what is expected
are outputs, the adapter's gradients, and `packed.`, `absmax.`, `dequant.` of some layers. `<case>_packed` is the base as
bitsandbytes saves it, with the same adapter and expectations.
"""
import json
import pathlib

import bitsandbytes as bnb
import torch
from common import DATA, randomise, write_case
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

torch.set_num_threads(1)
SETTINGS = dict(vocab_size=33, hidden_size=40, intermediate_size=76, num_hidden_layers=2, num_attention_heads=4,
                num_key_value_heads=2, rms_norm_eps=1e-6, max_position_embeddings=64)
THRESHOLD = 5.0
CASES = {"qlora_nf4_double": ("nf4", True), "qlora_fp4": ("fp4", False), "qlora_int8": ("int8", False)}
DUMPED = ("layers.0.self_attn.k_proj", "layers.1.mlp.down_proj")


def quantised(linear, kind, double):
    if kind == "int8":
        out = bnb.nn.Linear8bitLt(linear.in_features, linear.out_features, bias=False, has_fp16_weights=False,
                                  threshold=THRESHOLD)
        out.weight = bnb.nn.Int8Params(linear.weight.data.clone(), requires_grad=False, has_fp16_weights=False)
    else:
        out = bnb.nn.Linear4bit(linear.in_features, linear.out_features, bias=False, compute_dtype=torch.float32,
                                quant_type=kind, compress_statistics=double)
        out.weight = bnb.nn.Params4bit(linear.weight.data.clone(), requires_grad=False, quant_type=kind,
                                       compress_statistics=double)
    return out.to("cpu")


@torch.library.impl("bitsandbytes::int8_mm_dequant", "cpu")
def scaled(sums, row_stats, col_stats, dtype=None, bias=None):
    out = sums * (row_stats.reshape(-1, 1) * col_stats.reshape(1, -1)) * (1.0 / 127**2)
    return (out if bias is None else out + bias).to(dtype or torch.float16)


def codes_of(model, inputs, noise):
    """What every int8 layer makes of its input, which is off by `noise`."""
    codes, hooks = [], []

    def hook(_, args):
        x = args[0] * (1 + noise * torch.randn(args[0].shape))
        rows = x.detach().reshape(-1, x.shape[-1]).half()
        codes.extend(part for part in bnb.functional.int8_vectorwise_quant(rows, threshold=THRESHOLD))
        return (x,)

    for module in model.modules():
        if isinstance(module, bnb.nn.Linear8bitLt):
            hooks.append(module.register_forward_pre_hook(hook))
    with torch.no_grad():
        model(**inputs)
    for handle in hooks:
        handle.remove()
    return codes


def check_stable(model, inputs):
    """And that there are columns of outliers, but not in every layer's input."""
    exact = codes_of(model, inputs, 0)
    outliers = [len(columns) for columns in exact[2::3]]
    assert 0 in outliers and sum(outliers) >= 5, outliers
    for _ in range(20):
        noisy = codes_of(model, inputs, 1e-6)
        for i, (a, b) in enumerate(zip(exact, noisy)):
            same = torch.equal(a, b) if i % 3 != 1 else torch.allclose(a, b, rtol=1e-5)
            assert same, "take another seed"


def parts_of(layer, kind):
    """Codes, scales and values of a quantised layer."""
    weight = layer.weight
    if kind == "int8":
        scales = layer.state_dict()["SCB"]
        return weight.data, scales, bnb.functional.int8_vectorwise_dequant(weight.data, scales)
    state = weight.quant_state
    absmax = state.absmax
    if state.nested:
        absmax = bnb.functional.dequantize_blockwise(absmax, state.state2) + state.offset
    return weight.data, absmax, bnb.functional.dequantize_4bit(weight.data, state)


for seed, (name, (kind, double)) in enumerate(CASES.items()):
    torch.manual_seed(80 + seed)
    config = LlamaConfig(**SETTINGS, attn_implementation="eager")
    base = LlamaForCausalLM(config)
    randomise(base, 0.2, 80 + seed)
    weights = {n: p.detach().clone() for n, p in base.named_parameters()}
    for layer in base.model.layers:
        for block in (layer.self_attn, layer.mlp):
            for child, module in list(block.named_children()):
                if isinstance(module, torch.nn.Linear):
                    setattr(block, child, quantised(module, kind, double))
    packed_state = {n: t.detach().clone().contiguous() for n, t in base.state_dict().items()}
    setattr(base, "is_loaded_in_8bit" if kind == "int8" else "is_loaded_in_4bit", True)
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", r=3, lora_alpha=7, target_modules="all-linear"))
    generator = torch.Generator().manual_seed(90 + seed)
    with torch.no_grad():
        for n, p in sorted(model.named_parameters(), key=lambda item: item[0]):
            if "lora_" in n:
                p.copy_(torch.randn(p.shape, generator=generator) * 0.3)
    model.train(kind != "int8")
    ids = torch.randint(0, config.vocab_size, (2, 9 + 2 * seed))
    mask = torch.ones_like(ids)
    mask[1, -3:] = 0
    labels = torch.where(mask == 1, ids, -100)
    labels[:, :2] = -100
    inputs = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    if kind == "int8":
        check_stable(model, inputs)
    out = model(**inputs)
    out.loss.backward()
    expected = {"loss": out.loss, "logits": out.logits}
    for n, p in model.named_parameters():
        if "lora_" in n:
            expected["grad." + n.replace(".default", "")] = p.grad
    inner = model.base_model.model.model
    for path in DUMPED:
        packed, absmax, values = parts_of(inner.get_submodule(path).base_layer, kind)
        expected[f"packed.model.{path}"] = packed
        expected[f"absmax.model.{path}"] = absmax
        expected[f"dequant.model.{path}"] = values
    described = {**config.to_dict(), "dtype": "float32"}
    folder = write_case(name, described, weights, inputs, expected)
    model.save_pretrained(folder / "adapter")
    (folder / "adapter" / "README.md").unlink(missing_ok=True)
    own = DATA / f"{name}_packed"
    own.mkdir(exist_ok=True)
    described["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_8bit": kind == "int8",
                                        "load_in_4bit": kind != "int8", "bnb_4bit_quant_type": kind,
                                        "bnb_4bit_use_double_quant": double, "bnb_4bit_compute_dtype": "float32",
                                        "llm_int8_threshold": THRESHOLD, "llm_int8_skip_modules": None}
    (own / "config.json").write_text(json.dumps(described, indent=1, sort_keys=True) + "\n")
    save_file(packed_state, own / "model.safetensors")
