"""AdaLoRA goldens by PEFT. See peft_common.py.

`<case>`: an adapter before training, its outputs with the regulariser, and thirty steps: after each one PEFT's
update_and_allocate, with the step's number from 1. `<case>_pruned`: the adapter that is left of them, as PEFT saves and
loads it. Its adapter_config.json has the rank pattern.
"""
import torch
from peft import AdaLoraConfig, PeftModel, get_peft_model
from peft_common import SMALL, base_model, disturb, run_steps, save_steps, text_inputs, trained, write_adapter_case
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

STEPS = 30
CASES = {
    "adalora": (
        LlamaConfig, LlamaForCausalLM,
        dict(init_r=4, target_r=2, lora_alpha=7, tinit=4, tfinal=6, deltaT=3, beta1=0.8, beta2=0.9,
             orth_reg_weight=0.3, total_step=STEPS, target_modules=["q_proj", "v_proj", "down_proj"])),
    "adalora_all_linear": (
        Qwen2Config, Qwen2ForCausalLM,
        dict(init_r=3, target_r=1, lora_alpha=5, total_step=STEPS, target_modules="all-linear")),
}


def outputs(model, inputs):
    model.zero_grad()
    out = model(**inputs)
    out.loss.backward()
    norms = [torch.linalg.norm((p @ p.T if "lora_A" in n else p.T @ p) - torch.eye(min(p.shape)))
             for n, p in trained(model).items() if "lora_A" in n or "lora_B" in n]
    expected = {"logits": out.logits, "loss": out.loss, "orth_reg": torch.stack(norms).mean()}
    return expected | {"grad." + n: p.grad.clone() for n, p in trained(model).items() if p.numel()}


def make(seed, name, config_class, model_class, adalora):
    base, settings, weights = base_model(config_class, model_class, SMALL, 100 + seed)
    model = get_peft_model(base, AdaLoraConfig(task_type="CAUSAL_LM", **adalora))
    disturb(model, 110 + seed, lambda n, p, noise: p.add_(0.2 * noise) if "ranknum" not in n else None)
    inputs = text_inputs(SMALL["vocab_size"], 9 + seed, padded=2)
    folder = write_adapter_case(name, settings, weights, inputs, outputs(model, inputs), model, merges=False)
    save_steps(run_steps(model, inputs, STEPS, model.base_model.update_and_allocate), trained(model), folder)
    pruned = write_adapter_case(name + "_pruned", settings, weights, inputs, {"logits": model(**inputs).logits}, model,
                                merges=False)
    base = model_class(base.config)
    base.load_state_dict(weights)
    model = PeftModel.from_pretrained(base, pruned / "adapter", is_trainable=True)
    write_adapter_case(name + "_pruned", settings, weights, inputs, outputs(model, inputs), model)


for seed, (name, case) in enumerate(CASES.items()):
    make(seed, name, *case)
