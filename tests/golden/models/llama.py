"""LLaMA goldens by transformers' LlamaForCausalLM (eager attention). See common.py for the pinned versions."""
import torch
from common import randomise, write_case
from transformers import LlamaConfig, LlamaForCausalLM

CASES = {
    "llama_right_padded": (
        dict(vocab_size=37, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=3,
             num_key_value_heads=3, rms_norm_eps=1e-6, max_position_embeddings=64),
        [[1] * 7, [1, 1, 1, 1, 0, 0, 0]]),
    "llama_grouped_left_padded": (
        dict(vocab_size=53, hidden_size=20, intermediate_size=52, num_hidden_layers=3, num_attention_heads=4,
             num_key_value_heads=2, head_dim=6, rms_norm_eps=1e-5, rope_theta=5000.0, max_position_embeddings=64,
             attention_bias=True, rope_scaling={"rope_type": "linear", "factor": 2.5}),
        [[0, 0, 0, 1, 1, 1, 1, 1, 1], [1] * 9, [0, 1, 1, 1, 1, 1, 1, 1, 1]]),
    "llama_tied_llama3_rope": (
        dict(vocab_size=29, hidden_size=32, intermediate_size=44, num_hidden_layers=2, num_attention_heads=2,
             num_key_value_heads=1, rms_norm_eps=1e-5, max_position_embeddings=64, tie_word_embeddings=True,
             rope_scaling={"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                           "original_max_position_embeddings": 16}),
        [[1] * 11]),
}

for seed, (name, (settings, mask)) in enumerate(CASES.items()):
    torch.manual_seed(seed)
    config = LlamaConfig(**settings, attn_implementation="eager")
    model = LlamaForCausalLM(config)
    randomise(model, 0.25, seed)
    mask = torch.tensor(mask)
    ids = torch.randint(0, config.vocab_size, mask.shape)
    labels = torch.where((mask == 1) & (torch.rand(mask.shape) > 0.3), ids, -100)
    out = model(input_ids=ids, attention_mask=mask, labels=labels, output_hidden_states=True)
    out.loss.backward()
    expected = {"logits": out.logits, "loss": out.loss, "last_hidden_state": out.hidden_states[-1]}
    expected |= {f"hidden_states.{i}": h for i, h in enumerate(out.hidden_states)}
    expected |= {f"grad.{n}": p.grad for n, p in model.named_parameters()}
    weights = {n: p for n, p in model.named_parameters()}
    write_case(name, config.to_diff_dict() | {"model_type": "llama"} | settings, weights,
               {"input_ids": ids, "attention_mask": mask, "labels": labels}, expected)
