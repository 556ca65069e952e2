"""LoRA goldens by PEFT over transformers' LlamaForCausalLM: gradients of the base's weights too. See peft_common.py."""
import torch
from peft import LoraConfig, get_peft_model
from peft_common import base_model, disturb, file_name, text_inputs, write_adapter_case
from transformers import LlamaConfig, LlamaForCausalLM

CASES = {
    "lora_query_value": (
        dict(vocab_size=31, hidden_size=24, intermediate_size=36, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, rms_norm_eps=1e-6, max_position_embeddings=64),
        dict(r=3, lora_alpha=7, lora_dropout=0.05, target_modules=["q_proj", "v_proj"])),
    "lora_all_rslora": (
        dict(vocab_size=35, hidden_size=20, intermediate_size=52, num_hidden_layers=3, num_attention_heads=2,
             num_key_value_heads=2, rms_norm_eps=1e-5, max_position_embeddings=64),
        dict(r=5, lora_alpha=4, use_rslora=True, target_modules="all-linear")),
}

for seed, (name, (sizes, lora)) in enumerate(CASES.items()):
    base, settings, weights = base_model(LlamaConfig, LlamaForCausalLM, sizes, 60 + seed)
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **lora))
    disturb(model, 70 + seed, lambda n, p, noise: p.copy_(noise * 0.3))
    model.eval()
    for p in model.parameters():
        p.requires_grad_(True)
    inputs = text_inputs(sizes["vocab_size"], 9 + 2 * seed, padded=3)
    out = model(**inputs, output_hidden_states=True)
    out.loss.backward()
    expected = {"logits": out.logits, "loss": out.loss, "last_hidden_state": out.hidden_states[-1]}
    for n, p in model.named_parameters():
        name_of_grad = file_name(n) if "lora_" in n else file_name(n).removeprefix("base_model.model.")
        expected["grad." + name_of_grad] = p.grad
    write_adapter_case(name, settings, weights, inputs, expected, model)
