"""Names that the public packages give the tensors of one tiny LLaVA: state dicts, saved files, adapters.

Run once per environment; each run adds its lists to data/names.json:
    transformers==4.37.2 peft==0.5.0, with haotian-liu/LLaVA at c121f04 as LLAVA:  python make_names.py LLAVA
    transformers==4.57.6 peft==0.18.1:                                             python make_names.py
    transformers==5.24.0 peft==0.18.1:                                             python make_names.py
DeepSpeed is not needed: LLaVA's collectors ask it only to gather what is partitioned, and nothing is.
"""
import json
import pathlib
import sys
import tempfile
import types

import transformers
from safetensors import safe_open
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig

OUT = pathlib.Path(__file__).parent / "data" / "names.json"
RELEASE = transformers.__version__.split(".")
TAG = RELEASE[0] if RELEASE[0] == "5" else RELEASE[0] + RELEASE[1]
TEXT = dict(vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2)
VISION = dict(hidden_size=16, intermediate_size=20, num_hidden_layers=2, num_attention_heads=2, image_size=28,
              patch_size=14, projection_dim=16)
found = {}


def saved(model):
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        names = []
        for path in pathlib.Path(folder).glob("*.safetensors"):
            with safe_open(path, "pt") as file:
                names += file.keys()
    return names


def adapters(prefix, model, **more):
    """State dict of the wrapped model, and what goes into the adapter's file."""
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
    wrapped = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "v_proj"], **more))
    found[prefix + "_state"] = list(wrapped.state_dict())
    found[prefix + "_adapter"] = list(get_peft_model_state_dict(wrapped))
    return wrapped


def original(path):
    """LLaVA's own classes, and its trainer's collectors."""
    sys.path.insert(0, path)
    from llava.model.language_model.llava_llama import LlavaConfig, LlavaLlamaForCausalLM
    from llava.train.train import get_mm_adapter_state_maybe_zero_3, get_peft_state_non_lora_maybe_zero_3
    deepspeed = types.ModuleType("deepspeed")
    deepspeed.zero = types.ModuleType("deepspeed.zero")
    states = types.ModuleType("deepspeed.runtime.zero.partition_parameters")
    states.ZeroParamStatus = types.SimpleNamespace(NOT_AVAILABLE=0)
    sys.modules |= {"deepspeed": deepspeed, "deepspeed.zero": deepspeed.zero,
                    "deepspeed.runtime": types.ModuleType("deepspeed.runtime"),
                    "deepspeed.runtime.zero": types.ModuleType("deepspeed.runtime.zero"),
                    "deepspeed.runtime.zero.partition_parameters": states}
    with tempfile.TemporaryDirectory() as folder:
        tower = folder + "/clip"
        CLIPVisionModel(CLIPVisionConfig(**VISION)).save_pretrained(tower)
        transformers.CLIPImageProcessor(size={"shortest_edge": 28}, crop_size=28).save_pretrained(tower)
        config = LlavaConfig(**TEXT, mm_vision_tower=tower, mm_hidden_size=16, mm_projector_type="mlp2x_gelu",
                             mm_vision_select_layer=-2, mm_vision_select_feature="patch",
                             mm_patch_merge_type="spatial_unpad")
        model = LlavaLlamaForCausalLM(config)
        model.get_vision_tower().load_model()
    found["original"] = list(model.state_dict())
    found["original_file"] = saved(model)
    found["mm_projector"] = list(get_mm_adapter_state_maybe_zero_3(model.named_parameters(), ["mm_projector"]))
    found["mm_projector_start_end"] = list(get_mm_adapter_state_maybe_zero_3(
        model.named_parameters(), ["mm_projector", "embed_tokens", "embed_in"]))
    wrapped = adapters("peft05", model)
    for name, parameter in wrapped.named_parameters():
        if "mm_projector" in name or "lm_head" in name:
            parameter.requires_grad_(True)
    found["non_lora_trainables"] = list(get_peft_state_non_lora_maybe_zero_3(wrapped.named_parameters()))


def converted():
    """transformers' own classes."""
    from transformers import LlavaConfig, LlavaForConditionalGeneration
    settings = dict(vision_config=CLIPVisionConfig(**VISION), text_config=LlamaConfig(**TEXT), image_token_index=39)
    model = LlavaForConditionalGeneration(LlavaConfig(**settings))
    found[f"hf{TAG}_memory"] = list(model.state_dict())
    found[f"hf{TAG}_file"] = saved(model)
    if TAG == "437":
        return
    from transformers import LlavaNextConfig, LlavaNextForConditionalGeneration
    adapters(f"peft018_hf{TAG}", model, modules_to_save=["lm_head"])
    following = LlavaNextForConditionalGeneration(LlavaNextConfig(**settings))
    found[f"next{TAG}_memory"] = list(following.state_dict())
    found[f"next{TAG}_file"] = saved(following)


if len(sys.argv) > 1:
    original(sys.argv[1])
converted()
everything = json.loads(OUT.read_text()) if OUT.exists() else {}
everything |= {name: sorted(names) for name, names in found.items()}
OUT.write_text(json.dumps(everything, indent=0, sort_keys=True) + "\n")
print({name: len(names) for name, names in found.items()})
