"""Opens what tessera wrote in the programs it is for. Arguments: peft BASE ADAPTER OUTPUTS | merged FOLDER OUTPUTS

peft:   PEFT loads the adapter onto transformers' LlamaForCausalLM of BASE; its logits on OUTPUTS' input_ids must be
        OUTPUTS' logits, and loading must leave no key over. Exit status 77: a package is not there.
merged: transformers' LlamaForCausalLM loads FOLDER; the same comparison.
"""
import sys

try:
    import peft
    import torch
    from safetensors import safe_open
    from safetensors.torch import load_file
    from transformers import LlamaForCausalLM
except ImportError as missing:
    print(f"could not run here: {missing}")
    sys.exit(77)


def main(kind, *paths):
    recorded = load_file(paths[-1])
    model, info = LlamaForCausalLM.from_pretrained(paths[0], output_loading_info=True, torch_dtype=torch.float32)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"], info
    if kind == "peft":
        model = peft.PeftModel.from_pretrained(model, paths[1])
        with safe_open(paths[1] + "/adapter_model.safetensors", "pt") as file:
            ours = set(file.keys())
        # An embedding's own weight, which PEFT saves beside its adapter, is the base's.
        theirs = {name for name in peft.get_peft_model_state_dict(model) if ".base_layer." not in name}
        assert ours == theirs, ours ^ theirs
    model.eval()
    with torch.no_grad():
        logits = model(input_ids=recorded["input_ids"]).logits
    worst = (logits - recorded["logits"]).abs().max().item()
    print(f"largest difference of the logits: {worst:.2e}")
    torch.testing.assert_close(logits, recorded["logits"], rtol=1e-4, atol=1e-5)


main(*sys.argv[1:])
