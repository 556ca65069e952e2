"""QLoRA goldens: PEFT over transformers' LlamaForCausalLM whose linear layers, the output layer apart, are bitsandbytes'.

Made with torch 2.11.0 (CPU), transformers 4.57.6, peft 0.18.1, bitsandbytes 0.50.2, safetensors 0.7.0; set
TORCHDYNAMO_DISABLE=1. In training mode, where Linear8bitLt leaves activations as they are on a CPU; fp32, no dropout.

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
CASES = {"qlora_nf4_double": ("nf4", True), "qlora_fp4": ("fp4", False), "qlora_int8": ("int8", False)}
DUMPED = ("layers.0.self_attn.k_proj", "layers.1.mlp.down_proj")


def quantised(linear, kind, double):
    if kind == "int8":
        out = bnb.nn.Linear8bitLt(linear.in_features, linear.out_features, bias=False, has_fp16_weights=False,
                                  threshold=6.0)
        out.weight = bnb.nn.Int8Params(linear.weight.data.clone(), requires_grad=False, has_fp16_weights=False)
    else:
        out = bnb.nn.Linear4bit(linear.in_features, linear.out_features, bias=False, compute_dtype=torch.float32,
                                quant_type=kind, compress_statistics=double)
        out.weight = bnb.nn.Params4bit(linear.weight.data.clone(), requires_grad=False, quant_type=kind,
                                       compress_statistics=double)
    return out.to("cpu")


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
    model.train()
    ids = torch.randint(0, config.vocab_size, (2, 9 + 2 * seed))
    mask = torch.ones_like(ids)
    mask[1, -3:] = 0
    labels = torch.where(mask == 1, ids, -100)
    labels[:, :2] = -100
    out = model(input_ids=ids, attention_mask=mask, labels=labels)
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
    inputs = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    folder = write_case(name, described, weights, inputs, expected)
    model.save_pretrained(folder / "adapter")
    (folder / "adapter" / "README.md").unlink(missing_ok=True)
    own = DATA / f"{name}_packed"
    own.mkdir(exist_ok=True)
    described["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_8bit": kind == "int8",
                                        "load_in_4bit": kind != "int8", "bnb_4bit_quant_type": kind,
                                        "bnb_4bit_use_double_quant": double, "bnb_4bit_compute_dtype": "float32"}
    (own / "config.json").write_text(json.dumps(described, indent=1, sort_keys=True) + "\n")
    save_file(packed_state, own / "model.safetensors")
