"""Prefix tuning goldens by PEFT, alone and beside LoRA. See peft_common.py.

`prefix_projected` trains the projection: `start.safetensors` has its parameters under PEFT's own names, and
steps.safetensors the product that PEFT saves after the steps. `prefix_and_lora` has PEFT's two folders, `adapter`
(LoRA) and `prefix`. `prefix_llava` is an adapter for llava_hf_llama, and its outputs there.
"""
import torch
from common import DATA, write_case
from peft import LoraConfig, PrefixTuningConfig, get_peft_model
from peft_common import SMALL, base_model, disturb, run_steps, save_adapter, save_steps, text_inputs, trained
from safetensors.torch import load_file, save_file
from transformers import (LlamaConfig, LlamaForCausalLM, LlavaForConditionalGeneration, MptConfig, MptForCausalLM,
                          Qwen2Config, Qwen2ForCausalLM)

STEPS = 4
GROUPED = SMALL | dict(num_attention_heads=4, num_key_value_heads=2)
MPT = dict(vocab_size=27, d_model=18, n_layers=2, n_heads=3, expansion_ratio=2, max_seq_len=64, no_bias=True)


def prefixed(base, seed, **settings):
    model = get_peft_model(base, PrefixTuningConfig(task_type="CAUSAL_LM", **settings))
    disturb(model, seed, lambda n, p, noise: p.copy_(0.5 * noise) if "prompt_encoder" in n else None)
    return model


def saved_product(model):
    return model.get_prompt_embedding_to_save("default").clone()


def outputs(model, inputs, parameters):
    out = model(**inputs)
    out.loss.backward()
    return {"logits": out.logits, "loss": out.loss} | {"grad." + n: p.grad.clone() for n, p in parameters.items()}


def make_plain(name, seed, config_class, model_class, sizes, **settings):
    base, config, weights = base_model(config_class, model_class, sizes, seed)
    model = prefixed(base, seed, **settings)
    inputs = text_inputs(sizes["vocab_size"], 9, padded=2)
    parameters = {"prompt_embeddings": model.prompt_encoder.default.embedding.weight}
    folder = write_case(name, config, weights, inputs, outputs(model, inputs, parameters))
    save_adapter(model, folder / "adapter")
    save_steps(run_steps(model, inputs, STEPS), {"prompt_embeddings": saved_product(model)}, folder)


def make_projected(name, seed):
    base, config, weights = base_model(Qwen2Config, Qwen2ForCausalLM, GROUPED, seed)
    model = prefixed(base, seed, num_virtual_tokens=3, prefix_projection=True, encoder_hidden_size=10)
    inputs = text_inputs(GROUPED["vocab_size"], 8, padded=3)
    out = model(**inputs)
    folder = write_case(name, config, weights, inputs, {"logits": out.logits, "loss": out.loss})
    save_adapter(model, folder / "adapter")
    save_file({n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad},
              folder / "start.safetensors")
    save_steps(run_steps(model, inputs, STEPS), {"prompt_embeddings": saved_product(model)}, folder)


def make_beside_lora(name, seed):
    base, config, weights = base_model(LlamaConfig, LlamaForCausalLM, GROUPED, seed)
    lora = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", r=2, lora_alpha=5, target_modules=["q_proj", "k_proj"]))
    disturb(lora, seed + 1, lambda n, p, noise: p.copy_(0.3 * noise))
    model = prefixed(base, seed, num_virtual_tokens=5)
    inputs = text_inputs(GROUPED["vocab_size"], 7, padded=2)
    for n, p in base.named_parameters():
        p.requires_grad_("lora_" in n)
    parameters = trained(lora) | {"prompt_embeddings": model.prompt_encoder.default.embedding.weight}
    folder = write_case(name, config, weights, inputs, outputs(model, inputs, parameters))
    save_adapter(lora, folder / "adapter")
    save_adapter(model, folder / "prefix")
    after = run_steps(model, inputs, STEPS), trained(lora) | {"prompt_embeddings": saved_product(model)}
    save_steps(after[0], {n: p.detach().clone() for n, p in after[1].items()}, folder)


def make_llava(name, seed):
    base = LlavaForConditionalGeneration.from_pretrained(DATA / "llava_hf_llama", attn_implementation="eager",
                                                         dtype=torch.float32)
    model = prefixed(base, seed, num_virtual_tokens=4)
    inputs = load_file(DATA / "llava_hf_llama" / "inputs.safetensors")
    parameters = {"prompt_embeddings": model.prompt_encoder.default.embedding.weight}
    folder = DATA / name
    folder.mkdir(exist_ok=True)
    found = outputs(model, inputs, parameters)
    save_file({n: t.detach().clone().contiguous() for n, t in found.items()}, folder / "expected.safetensors")
    save_adapter(model, folder / "adapter")


make_plain("prefix_grouped", 130, LlamaConfig, LlamaForCausalLM, GROUPED, num_virtual_tokens=3)
make_plain("prefix_mpt", 140, MptConfig, MptForCausalLM, MPT, num_virtual_tokens=4, num_attention_heads=3, num_layers=2,
           token_dim=18)
make_projected("prefix_projected", 150)
make_beside_lora("prefix_and_lora", 160)
make_llava("prefix_llava", 170)
