"""LoRA goldens by PEFT over transformers' LlamaForCausalLM. See common.py for the pinned versions.

Each case is a base model's folder with PEFT's own adapter folder `adapter` beside the weights. Gradients of the adapter
have the names of adapter_model.safetensors; `merged.*` are tensors after PEFT merged the adapter.
"""
import torch
from common import DATA, randomise, write_case
from peft import LoraConfig, get_peft_model
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

for seed, (name, (settings, lora)) in enumerate(CASES.items()):
    torch.manual_seed(60 + seed)
    config = LlamaConfig(**settings, attn_implementation="eager")
    base = LlamaForCausalLM(config)
    randomise(base, 0.2, 60 + seed)
    weights = {n: p.detach().clone() for n, p in base.named_parameters()}
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **lora))
    generator = torch.Generator().manual_seed(70 + seed)
    with torch.no_grad():
        for n, p in sorted(model.named_parameters(), key=lambda item: item[0]):
            if "lora_" in n:
                p.copy_(torch.randn(p.shape, generator=generator) * 0.3)
    model.eval()
    for p in model.parameters():
        p.requires_grad_(True)
    ids = torch.randint(0, config.vocab_size, (2, 9 + 2 * seed))
    mask = torch.ones_like(ids)
    mask[1, -3:] = 0
    labels = torch.where(mask == 1, ids, -100)
    out = model(input_ids=ids, attention_mask=mask, labels=labels, output_hidden_states=True)
    out.loss.backward()
    expected = {"logits": out.logits, "loss": out.loss, "last_hidden_state": out.hidden_states[-1]}
    for n, p in model.named_parameters():
        plain = n.removeprefix("base_model.model.").replace(".base_layer.", ".")
        expected["grad." + (n.replace(".default", "") if "lora_" in n else plain)] = p.grad
    folder = write_case(name, config.to_diff_dict() | {"model_type": "llama"} | settings, weights,
                        {"input_ids": ids, "attention_mask": mask, "labels": labels}, expected)
    model.peft_config["default"].base_model_name_or_path = ""
    model.save_pretrained(folder / "adapter")
    (folder / "adapter" / "README.md").unlink()
    merged = model.merge_and_unload()
    expected |= {f"merged.{n}": p for n, p in merged.named_parameters()}
    write_case(name, config.to_diff_dict() | {"model_type": "llama"} | settings, weights,
               {"input_ids": ids, "attention_mask": mask, "labels": labels}, expected)
