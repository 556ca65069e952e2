"""Goldens of language models beside LLaMA (llama.py): dynamic rotary scaling, Qwen2, Mistral, MPT, by transformers'
classes with eager attention. Made with transformers 4.57.6, torch 2.11.0, safetensors 0.8.0; see common.py.

`cached.safetensors` of some cases is the same batch given in pieces with past_key_values, as generate() gives it:
positions counted from a row's first token that is not padding.
"""
import inspect

import torch
from common import randomise, write_case
from safetensors.torch import save_file
from transformers import (LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, MptConfig, MptForCausalLM,
                          Qwen2Config, Qwen2ForCausalLM)

RIGHT = [[1] * 9, [1, 1, 1, 1, 1, 0, 0, 0, 0]]
LEFT = [[0, 0, 0, 1, 1, 1, 1, 1, 1, 1], [1] * 10, [0, 1, 1, 1, 1, 1, 1, 1, 1, 1]]
CASES = {
    "llama_dynamic_rope": (LlamaConfig, LlamaForCausalLM, dict(
        vocab_size=31, hidden_size=24, intermediate_size=28, num_hidden_layers=2, num_attention_heads=3,
        num_key_value_heads=1, rms_norm_eps=1e-6, max_position_embeddings=7, mlp_bias=True,
        rope_scaling={"rope_type": "dynamic", "factor": 2.0}), LEFT, [6, 1, 1, 2]),
    "qwen2_tied_right_padded": (Qwen2Config, Qwen2ForCausalLM, dict(
        vocab_size=41, hidden_size=20, intermediate_size=36, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, rms_norm_eps=1e-6, max_position_embeddings=64, tie_word_embeddings=True), RIGHT, None),
    "qwen2_grouped_left_padded": (Qwen2Config, Qwen2ForCausalLM, dict(
        vocab_size=35, hidden_size=36, intermediate_size=44, num_hidden_layers=3, num_attention_heads=6,
        num_key_value_heads=2, rms_norm_eps=1e-6, max_position_embeddings=64, rope_theta=1000000.0,
        use_sliding_window=False, sliding_window=3, max_window_layers=1), LEFT, [7, 1, 2]),
    "qwen2_windowed": (Qwen2Config, Qwen2ForCausalLM, dict(
        vocab_size=27, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, rms_norm_eps=1e-6, max_position_embeddings=64, use_sliding_window=True,
        sliding_window=4, max_window_layers=1), RIGHT, None),
    "mistral_windowed": (MistralConfig, MistralForCausalLM, dict(
        vocab_size=33, hidden_size=24, intermediate_size=28, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, rms_norm_eps=1e-5, max_position_embeddings=64, sliding_window=5), RIGHT, None),
    "mpt_three_heads_clipped": (MptConfig, MptForCausalLM, dict(
        vocab_size=43, d_model=24, n_heads=3, n_layers=2, max_seq_len=32, attn_config={"clip_qkv": 0.6}), RIGHT, None),
    "mpt_five_heads_left_padded": (MptConfig, MptForCausalLM, dict(
        vocab_size=29, d_model=20, n_heads=5, n_layers=3, max_seq_len=24, layer_norm_epsilon=1e-5,
        attn_config={"softmax_scale": 0.7, "alibi_bias_max": 4}), LEFT, [6, 1, 1, 2]),
}


def in_pieces(model, ids, mask, pieces):
    """The logits of all positions, from one call a piece."""
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    extra = "position_ids" in inspect.signature(model.forward).parameters
    logits, cache, begin = [], None, 0
    for piece in pieces:
        end = begin + piece
        more = {"position_ids": positions[:, begin:end]} if extra else {}
        out = model(input_ids=ids[:, begin:end], attention_mask=mask[:, :end], past_key_values=cache, use_cache=True,
                    **more)
        logits.append(out.logits)
        cache, begin = out.past_key_values, end
    return {"logits": torch.cat(logits, 1), "position_ids": positions, "pieces": torch.tensor(pieces)}


for seed, (name, (config_class, model_class, settings, mask, pieces)) in enumerate(CASES.items()):
    torch.manual_seed(100 + seed)
    config = config_class(**settings)
    config._attn_implementation = "eager"
    model = model_class(config).eval()
    randomise(model, 0.25, 100 + seed)
    mask = torch.tensor(mask)
    ids = torch.randint(0, config.vocab_size, mask.shape)
    labels = torch.where((mask == 1) & (torch.rand(mask.shape) > 0.3), ids, -100)
    out = model(input_ids=ids, attention_mask=mask, labels=labels, output_hidden_states=True)
    out.loss.backward()
    expected = {"logits": out.logits, "loss": out.loss, "last_hidden_state": out.hidden_states[-1]}
    expected |= {f"hidden_states.{i}": h for i, h in enumerate(out.hidden_states)}
    weights = {n: p for n, p in model.named_parameters()}
    expected |= {f"grad.{n}": p.grad for n, p in weights.items()}
    folder = write_case(name, config.to_diff_dict() | {"model_type": config.model_type} | settings, weights,
                        {"input_ids": ids, "attention_mask": mask, "labels": labels}, expected)
    if pieces:
        with torch.no_grad():
            cached = in_pieces(model, ids, mask, pieces)
        save_file({k: v.clone().contiguous() for k, v in cached.items()}, folder / "cached.safetensors")
