"""A LISA training step at medium size by the original's wiring in PyTorch on two threads, and by bench_lisa on two ranks
of one thread, in turn: medians and their ratio, with and without gradient checkpointing.

    python tests/bench/lisa_compare.py --program build/bench_lisa [--rounds 3] [--steps 3]

The original (dvlab-research/LISA model/LISA.py) is written anew over transformers' LLaMA, CLIP and SAM and PEFT's LoRA:
CLIP sees a picture once for each of its conversations, logits are made at all positions, attention is eager, as in the
transformers of its time. DeepSpeed is left out, which would only add to it. Sizes and what trains are bench_lisa's.
"""
import argparse
import os
import pathlib
import re
import statistics
import subprocess
import sys
import time

import torch
from peft import LoraConfig, get_peft_model
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "golden/models"))
from sam_common import build_sam, decode_text, mask_losses, postprocess  # noqa: E402

IMAGES, CONVERSATIONS, POSITIONS, LABELS, SEG = 2, 2, 326, 24, 32002
LLAMA = dict(vocab_size=32003, hidden_size=512, intermediate_size=1376, num_hidden_layers=8, num_attention_heads=8)
CLIP = dict(hidden_size=256, intermediate_size=1024, num_hidden_layers=6, num_attention_heads=4, image_size=224,
            patch_size=14, hidden_act="quick_gelu")
SAM = dict(image_size=256, patch_size=16, embed_dim=192, depth=4, num_heads=3, global_attn_indexes=[3], window_size=14,
           prompt_embed_dim=256, mask_in_chans=16, decoder_depth=2, decoder_mlp_dim=2048, decoder_num_heads=8,
           num_multimask_outputs=3, iou_head_depth=3, iou_head_hidden_dim=256, mlp_ratio=4.0)
PATCHES = (CLIP["image_size"] // CLIP["patch_size"]) ** 2


class Lisa(torch.nn.Module):
    def __init__(self, checkpointing):
        super().__init__()
        llama = LlamaForCausalLM(LlamaConfig(attn_implementation="eager", use_cache=False, **LLAMA))
        self.clip = CLIPVisionModel(CLIPVisionConfig(attn_implementation="eager", **CLIP))
        self.sam, _ = build_sam(SAM, 1e-6, 7)
        self.projector = torch.nn.Linear(CLIP["hidden_size"], LLAMA["hidden_size"])
        width = LLAMA["hidden_size"]
        self.fcs = torch.nn.Sequential(torch.nn.Linear(width, width), torch.nn.ReLU(),
                                       torch.nn.Linear(width, SAM["prompt_embed_dim"]))
        if checkpointing:
            llama.enable_input_require_grads()
            llama.gradient_checkpointing_enable({"use_reentrant": True})
        self.llama = get_peft_model(llama, LoraConfig(r=8, lora_alpha=16, lora_dropout=0.0, task_type="CAUSAL_LM",
                                                      target_modules=["q_proj", "v_proj"]))
        self.train()
        trained = ("lora_", "lm_head", "embed_tokens", "mask_decoder", "fcs")
        for name, p in self.named_parameters():
            p.requires_grad_(any(part in name for part in trained))

    def forward(self, batch):
        with torch.no_grad():
            embeddings = torch.cat([self.sam.vision_encoder(picture[None])[0] for picture in batch["images"]])
            seen = batch["images_clip"].repeat_interleave(CONVERSATIONS, 0)
            features = self.clip(seen, output_hidden_states=True).hidden_states[-2][:, 1:]
            projected = self.projector(features)
        text = self.llama.get_input_embeddings()(batch["ids"])
        rows = torch.cat([text[:, :1], projected, text[:, 2:]], 1)
        out = self.llama(inputs_embeds=rows, output_hidden_states=True)
        text_loss = torch.nn.functional.cross_entropy(out.logits[:, :-1].reshape(-1, LLAMA["vocab_size"]),
                                                      batch["labels"][:, 1:].reshape(-1))
        prompts = self.fcs(out.hidden_states[-1])[:, -3]  # the position that predicts [SEG]
        predicted = []
        for i in range(IMAGES):
            low, _ = decode_text(self.sam, embeddings[i : i + 1], prompts[i * CONVERSATIONS : (i + 1) * CONVERSATIONS])
            predicted.append(postprocess(low, SAM["image_size"], (256, 192), (480, 360)))
        bce, dice = mask_losses(predicted, batch["masks"])
        return text_loss + 2.0 * bce + 0.5 * dice


def draw_batch():
    length = POSITIONS - PATCHES + 1
    ids = torch.randint(0, 32000, (IMAGES * CONVERSATIONS, length))
    ids[:, -2] = SEG
    labels = torch.full((IMAGES * CONVERSATIONS, POSITIONS), -100)
    labels[:, -LABELS:] = ids[:, -LABELS:]
    return {"images": torch.rand(IMAGES, 3, SAM["image_size"], SAM["image_size"]),
            "images_clip": torch.rand(IMAGES, 3, CLIP["image_size"], CLIP["image_size"]), "ids": ids, "labels": labels,
            "masks": [(torch.rand(CONVERSATIONS, 480, 360) > 0.5).float() for _ in range(IMAGES)]}


def time_original(checkpointing, steps):
    torch.manual_seed(0)
    model, batch = Lisa(checkpointing), draw_batch()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    times = []
    for step in range(steps + 1):
        start = time.perf_counter()
        model(batch).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step > 0:  # the first one warms up
            times.append(time.perf_counter() - start)
    return times


def time_ours(program, checkpointing, steps):
    environment = dict(os.environ, OMP_NUM_THREADS="1")
    command = ["mpirun", "-n", "2", "--bind-to", "none", program, "--checkpointing", str(checkpointing).lower(), "--steps",
               str(steps)]
    text = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    return [float(re.search(r"step ([0-9.]+) s", text)[1])]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3, help="of each kind in a round")
    flags = parser.parse_args()
    torch.set_num_threads(2)
    for checkpointing in (True, False):
        original, ours = [], []
        for _ in range(flags.rounds):
            original += time_original(checkpointing, flags.steps)
            ours += time_ours(flags.program, checkpointing, flags.steps)
        a, b = statistics.median(original), statistics.median(ours)
        print(f"checkpointing {'on' if checkpointing else 'off'}: original {a:.2f} s, tessera {b:.2f} s on 2 ranks, "
              f"{b / a:.2f} of it", flush=True)


main()
