"""The weights of a small LLaMA, drawn, as transformers' files have them."""

import numpy as np
from safetensors.numpy import save_file


def write_llama(folder, config, deviation=0.1):
    """model.safetensors beside a config.json of these settings."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    narrow = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    shapes = {"model.embed_tokens.weight": (config["vocab_size"], hidden), "model.norm.weight": (hidden,),
              "lm_head.weight": (config["vocab_size"], hidden)}
    for i in range(config["num_hidden_layers"]):
        layer = {"self_attn.q_proj": (hidden, hidden), "self_attn.k_proj": (narrow, hidden),
                 "self_attn.v_proj": (narrow, hidden), "self_attn.o_proj": (hidden, hidden),
                 "mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden), "mlp.down_proj": (hidden, inner),
                 "input_layernorm": (hidden,), "post_attention_layernorm": (hidden,)}
        shapes |= {f"model.layers.{i}.{name}.weight": shape for name, shape in layer.items()}
    random = np.random.default_rng(11)
    save_file({name: (random.standard_normal(shape) * deviation + (len(shape) == 1)).astype(np.float32)
               for name, shape in shapes.items()}, folder / "model.safetensors", metadata={"format": "pt"})
