"""What the tests of LLaVA's training share: toy models, the program, and the same training in PyTorch over transformers'
LLaMA and CLIP, a projector of torch.nn and torch's AdamW.
"""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import time

import h5py
import torch
from transformers import (CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM,
                          get_linear_schedule_with_warmup)
from transformers.trainer_pt_utils import LabelSmoother

SOURCE = pathlib.Path(os.environ["TESSERA_SOURCE_DIR"])
PROGRAM = os.environ["TESSERA_PROGRAM"]
MPIEXEC = os.environ.get("TESSERA_MPIEXEC", "mpirun")
STEPS, SIDE, WIDTH, HIDDEN = 6, 28, 20, 32
torch.set_num_threads(1)


def run(ranks, *arguments):
    environment = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1", OMP_NUM_THREADS="1")
    command = [MPIEXEC, "--oversubscribe", "--bind-to", "none", "-n", str(ranks), PROGRAM, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    return done


def must(ranks, *arguments):
    done = run(ranks, *arguments)
    assert done.returncode == 0, f"{arguments}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


def make_models(root):
    toy = SOURCE / "launch" / "toy" / "lisa"
    vocabulary = json.loads((toy / "config.json").read_text())["vocab_size"]
    torch.manual_seed(3)
    language = LlamaForCausalLM(
        LlamaConfig(vocab_size=vocabulary, hidden_size=HIDDEN, intermediate_size=48, num_hidden_layers=2,
                    num_attention_heads=4, num_key_value_heads=2, initializer_range=0.1, attn_implementation="eager")
    )
    language.save_pretrained(root / "base")
    for name in ("tokenizer.model", "tokenizer_config.json"):
        shutil.copy(toy / name, root / "base" / name)
    tower = CLIPVisionModel(
        CLIPVisionConfig(hidden_size=WIDTH, intermediate_size=40, num_hidden_layers=3, num_attention_heads=4,
                         image_size=SIDE, patch_size=14, projection_dim=8)
    )
    tower.save_pretrained(root / "clip")
    CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=SIDE).save_pretrained(root / "clip")
    projector = torch.nn.Sequential(torch.nn.Linear(WIDTH, HIDDEN), torch.nn.GELU(), torch.nn.Linear(HIDDEN, HIDDEN))
    torch.save({f"model.mm_projector.{k}": v for k, v in projector.state_dict().items()}, root / "first.bin")


def read_rows(shards):
    """(ids, labels, name of the picture or None) of every sample."""
    rows = []
    for path in sorted(shards.glob("*.h5")):
        with h5py.File(path) as file:
            def row(group, i):
                offsets = file[group]["offsets"]
                return file[group]["values"][offsets[i] : offsets[i + 1]]

            for i, image in enumerate(file["samples/image"][:]):
                first = file["samples/conversation_offsets"][i]
                name = row("images/name", image).tobytes().decode() if image >= 0 else None
                rows.append((torch.tensor(row("conversations/ids", first)).long(),
                             torch.tensor(row("conversations/labels", first)).long(), name))
    return rows


class Reference:
    """The model over transformers' LLaMA and CLIP; a sample is (ids, labels, what features() takes or None)."""

    def __init__(self, root, projector):
        self.language = LlamaForCausalLM.from_pretrained(root / "base", attn_implementation="eager")
        self.tower = CLIPVisionModel.from_pretrained(root / "clip").requires_grad_(False).eval()
        self.projector = torch.nn.Sequential(
            torch.nn.Linear(WIDTH, HIDDEN), torch.nn.GELU(), torch.nn.Linear(HIDDEN, HIDDEN)
        )
        prefix = "model.mm_projector."
        self.projector.load_state_dict(
            {k.removeprefix(prefix): v for k, v in torch.load(projector).items() if k.startswith(prefix)})

    smoothing = 0

    def features(self, pixels):
        return self.projector(self.tower(pixels, output_hidden_states=True).hidden_states[-2][0, 1:])

    def loss(self, samples, limit=None):
        total, count = 0, 0
        for ids, labels, *picture in samples:
            ids, labels = ids[:limit], labels[:limit]
            embed = self.language.get_input_embeddings()
            if picture[0] is None:
                rows, targets = embed(ids), labels
            else:
                at = int((ids == -200).nonzero())
                features = self.features(*picture)
                rows = torch.cat([embed(ids[:at]), features, embed(ids[at + 1 :])])
                ignored = torch.full((len(features),), -100)
                targets = torch.cat([labels[:at], ignored, labels[at + 1 :]])
            rows, targets = rows[:limit], targets[:limit]
            logits = self.language(inputs_embeds=rows[None]).logits[0, :-1]
            here = int((targets[1:] != -100).sum())
            if self.smoothing:  # a mean over the sample's targets
                smoother = LabelSmoother(epsilon=self.smoothing)
                total = total + here * smoother({"logits": logits[None]}, targets[None, 1:].clone())
            else:
                total = total + torch.nn.functional.cross_entropy(logits, targets[1:], ignore_index=-100, reduction="sum")
            count += here
        return total / count

    def train(self, samples, trained, rate, rates=None, make_optimizer=None, make_schedule=None, clip_value=None,
              limit=None, steps=STEPS):
        rates = rates or {}
        groups = []
        for name, parameter in trained:
            decays = "norm" not in name and "bias" not in name
            own, decay = next((r if isinstance(r, tuple) else (r, 0.1) for part, r in rates.items() if part in name),
                              (rate, 0.1))
            groups.append({"params": [parameter], "lr": own, "weight_decay": decay if decays else 0.0})
        make_optimizer = make_optimizer or (lambda groups: torch.optim.AdamW(groups, betas=(0.9, 0.999), eps=1e-8))
        optimizer = make_optimizer(groups)
        schedule = (make_schedule or (lambda o: get_linear_schedule_with_warmup(o, 2, steps)))(optimizer)
        losses = []
        for _ in range(steps):
            loss = self.loss(samples, limit)
            loss.backward()
            if clip_value:
                torch.nn.utils.clip_grad_value_([p for _, p in trained], clip_value)
            else:
                torch.nn.utils.clip_grad_norm_([p for _, p in trained], 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        return losses


def near(got, want, what, most=1e-4, learned=True):
    assert len(got) == len(want), (what, got, want)
    worst = max(abs(a - b) / abs(b) for a, b in zip(got, want))
    assert worst < most, (what, worst, got, want)
    assert not learned or abs(want[-1] - want[0]) > 0.003 * want[0], (what, "nothing was learned", want)
    print(f"{what}: {want[0]:.4f} -> {want[-1]:.4f}, at most {worst:.1e} from the reference")


def killed_and_resumed(runs, command):
    """The losses of a run on two ranks that is killed and started again are those of one that is not."""
    must(2, *command, "--exp_name", "whole")
    with subprocess.Popen([MPIEXEC, "--oversubscribe", "--bind-to", "none", "-n", "2", PROGRAM, *map(str, command),
                           "--exp_name", "killed"], stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL, start_new_session=True,
                          env=dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")) as job:
        checkpoints = runs / "killed" / "checkpoints"
        deadline = time.monotonic() + 60
        while not list(checkpoints.glob("step-*/manifest.json")) and time.monotonic() < deadline:
            time.sleep(0.02)
        os.killpg(job.pid, signal.SIGKILL)
    ends = [runs / "killed" / result for result in ("adapter", "merged")]
    assert not any(end.exists() for end in ends), "the job had ended before it was killed"
    must(2, *command, "--exp_name", "killed")  # auto_resume
    whole, killed = ([json.loads(line)["loss"] for line in (runs / run / "metrics.jsonl").read_text().splitlines()
                      if '"loss"' in line] for run in ("whole", "killed"))
    assert whole == killed, (whole, killed)
