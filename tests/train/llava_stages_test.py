"""LLaVA's stages by `tessera train --recipe llava` beside the same in PyTorch: transformers' LLaMA and CLIP, a projector
of torch.nn, PEFT, torch's AdamW under transformers' linear schedule. Stage one trains the projector alone, stage two
everything but the tower or LoRA, a new one or one that was saved; every step's loss is compared, on one rank and on
several, and what is written opens there. Every optimiser and every schedule has a curve of its own, on one rank and on three; 8-bit moments have theirs in
tests/shard/optimizer_golden_test.cpp.
"""

import json
import pathlib
import tempfile

import h5py
import numpy as np
import torch
from llava_toy import SOURCE, STEPS, Reference, killed_and_resumed, make_models, must, near, read_rows, run
from PIL import Image
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import CLIPImageProcessor, LlamaForCausalLM, get_scheduler

SAMPLES = 6
LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
CLIP = 0.01  # of a gradient's element: cuts off many


def make_data(root):
    (root / "images").mkdir()
    records = []
    questions = ["What is it?", "Describe the picture.", "Which colour?", "And then?", "How many?", "Why so?"]
    for number in range(SAMPLES):
        turns = [{"from": "human", "value": ("<image>\n" if number != 2 else "") + questions[number]},
                 {"from": "gpt", "value": "It is a thing" + " of some kind" * (number % 4) + "."}]
        if number == 1:
            turns += [{"from": "human", "value": "Are you sure?"}, {"from": "gpt", "value": "Yes."}]
        record = {"id": str(number), "conversations": turns}
        if number != 2:  # one of text alone
            noise = np.random.default_rng(number).integers(0, 255, (30 + 5 * number, 41, 3), dtype=np.uint8)
            Image.fromarray(noise).save(root / "images" / f"{number}.png")
            record["image"] = f"{number}.png"
        records.append(record)
    (root / "chat.json").write_text(json.dumps(records))


def read_samples(root, shards):
    """(ids, labels, pixels or None) of every sample, the pictures through transformers' processor."""
    processor = CLIPImageProcessor.from_pretrained(root / "clip")
    samples = []
    for ids, labels, name in read_rows(shards):
        pixels = None
        if name:
            picture = Image.open(root / "images" / name).convert("RGB")
            pixels = processor(picture, return_tensors="pt")["pixel_values"]
        samples.append((ids, labels, pixels))
    return samples


def train(root, name, ranks, *flags, shards="shards"):
    must(ranks, "train", "--recipe", "llava", "--version", root / "base", "--vision_tower", root / "clip",
         "--mm_projector_type", "mlp2x_gelu", "--mm_vision_select_layer", -2, "--shards", root / shards,
         "--group_by_modality_length",
         "--global_batch_size", SAMPLES, "--batch_size", 1, "--steps_per_epoch", STEPS, "--epochs", 1, "--warmup_steps", 2,
         "--weight_decay", 0.1, "--lora_dropout", 0, "--log_base_dir", root / "runs", "--exp_name", name, *flags)
    folder = root / "runs" / name
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return folder, [line["loss"] for line in lines if "loss" in line]


def stage_one(root, samples):
    reference = Reference(root, root / "first.bin")
    trained = [(f"model.mm_projector.{k}", p) for k, p in reference.projector.named_parameters()]
    want = reference.train(samples, trained, 1e-2)
    for ranks in (1, 3):
        folder, losses = train(root, f"one_{ranks}", ranks, "--tune_mm_mlp_adapter", "--lr", 1e-2,
                               "--pretrain_mm_mlp_adapter", root / "first.bin", "--export_merged", "false")
        near(losses, want, f"stage one, {ranks} ranks")
        written = torch.load(folder / "mm_projector.bin", weights_only=True)
        for name, parameter in reference.projector.named_parameters():
            assert torch.allclose(written[f"model.mm_projector.{name}"], parameter, atol=1e-5), name
        assert not (folder / "non_lora_trainables.safetensors").exists()
    return folder / "mm_projector.bin"


def cut_rows(root, samples):
    """Rows are cut at --model_max_length once more when their pictures are in them, whatever config.json says."""
    # A picture is four positions in the place of one: the third row is whole without it and loses three tokens to it.
    limit = sorted(len(ids) for ids, _, pixels in samples if pixels is not None)[2]
    config = root / "base" / "config.json"
    as_it_was = config.read_text()
    for said in (None, 2048):
        config.write_text(json.dumps(json.loads(as_it_was) | ({"tokenizer_model_max_length": said} if said else {})))
        reference = Reference(root, root / "first.bin")
        trained = [(f"model.mm_projector.{k}", p) for k, p in reference.projector.named_parameters()]
        want = reference.train(samples, trained, 1e-2, limit=limit)
        folder, losses = train(root, f"cut_{said}", 2, "--tune_mm_mlp_adapter", "--lr", 1e-2, "--model_max_length", limit,
                               "--pretrain_mm_mlp_adapter", root / "first.bin")
        near(losses, want, f"rows cut at {limit}, config.json: {said}")
        written = json.loads((folder / "merged" / "config.json").read_text())
        assert (written["tokenizer_model_max_length"], written["tokenizer_padding_side"]) == (limit, "right"), written
    config.write_text(as_it_was)
    done = run(1, "train", "--recipe", "llava", "--version", root / "base", "--vision_tower", root / "clip", "--shards",
               root / "shards", "--model_max_length", 4, "--log_base_dir", root / "runs")
    assert done.returncode == 2 and "--model_max_length 4" in done.stderr, done.stderr


def events_of_a_run_begun_anew(root):
    """TensorBoard shows a step once, though an earlier run's file in the same folder has it as well."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for _ in range(2):
        folder, losses = train(root, "anew", 1, "--tune_mm_mlp_adapter", "--pretrain_mm_mlp_adapter", root / "first.bin",
                               "--max_steps", 3, "--auto_resume", "false", "--export_merged", "false")
    files = list(folder.glob("events.out.tfevents.*"))
    events = EventAccumulator(str(folder))
    events.Reload()
    assert len(files) == 2 and [e.step for e in events.Scalars("train/loss")] == [1, 2, 3], events.Scalars("train/loss")
    assert [e.value for e in events.Scalars("train/loss")] == [np.float32(loss) for loss in losses]


def stored_features(root):
    """The tower's features in the shards are transformers' in bf16, and stage one learns from them as from the tower."""
    must(2, "prepare", "--dataset", "llava", "--data_path", root / "chat.json", "--image_folder", root / "images",
         "--version", root / "base", "--conv_type", "v1", "--draws", 1, "--output_dir", root / "featured",
         "--val_dataset", "", "--store_features", "clip", "--vision_tower", root / "clip", "--mm_vision_select_layer", -2)
    reference = Reference(root, root / "first.bin")
    processor = CLIPImageProcessor.from_pretrained(root / "clip")
    compared = 0
    for path in sorted((root / "featured").glob("*.h5")):
        with h5py.File(path) as file:
            about = file["features/clip"].attrs
            shape = [int(about[f"dim_{d}"]) for d in range(about["dims"])]
            values = torch.tensor(file["features/clip/values"][:].view("int16")).view(torch.bfloat16)
            offsets, names = file["images/name/offsets"][:], file["images/name/values"][:].tobytes()
            for i, stored in enumerate(values.view(-1, *shape).float()):
                picture = Image.open(root / "images" / names[offsets[i] : offsets[i + 1]].decode()).convert("RGB")
                pixels = processor(picture, return_tensors="pt")["pixel_values"]
                seen = reference.tower(pixels, output_hidden_states=True).hidden_states[-2][0, 1:]
                assert torch.allclose(stored, seen, rtol=2**-8, atol=1e-3), (stored - seen).abs().max()
                compared += 1
    assert compared == SAMPLES - 1, compared
    trained = [(f"model.mm_projector.{k}", p) for k, p in reference.projector.named_parameters()]
    want = reference.train(read_samples(root, root / "featured"), trained, 1e-2)
    for ranks in (1, 2):
        _, losses = train(root, f"features_{ranks}", ranks, "--tune_mm_mlp_adapter", "--lr", 1e-2,
                          "--pretrain_mm_mlp_adapter", root / "first.bin", "--export_merged", "false", shards="featured")
        near(losses, want, f"stage one from stored features, {ranks} ranks", 1e-2)
    done = run(1, "train", "--recipe", "llava", "--version", root / "base", "--vision_tower", root / "clip", "--shards",
               root / "featured", "--mm_projector_type", "mlp2x_gelu", "--tune_mm_mlp_adapter", "--global_batch_size",
               4, "--log_base_dir", root / "runs", "--exp_name", "padded", "--image_aspect_ratio", "pad",
               "--mm_vision_select_layer", -2)
    assert done.returncode == 2 and "aspect square" in done.stderr and "aspect pad" in done.stderr, done.stderr


def schedule_of(kind, optimizer, extra):
    if kind != "warmup_decay":
        return get_scheduler(kind, optimizer, num_warmup_steps=2, num_training_steps=STEPS,
                             scheduler_specific_kwargs=extra)
    # DeepSpeed's own figures: tests/golden/train/schedules.py.
    golden = json.loads((SOURCE / "tests/golden/train/data/schedules.json").read_text())["cases"]
    factors = next(c["factors"] for c in golden
                   if (c["kind"], c["warmup_steps"], c["total_steps"]) == (kind, 2, STEPS))
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: factors[step])


class Lion(torch.optim.Optimizer):
    """arXiv:2302.06675, algorithm 2."""

    def __init__(self, groups):
        super().__init__(groups, {})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                m = self.state[p].setdefault("m", torch.zeros_like(p))
                direction = torch.sign(0.9 * m + 0.1 * p.grad)
                p.copy_(p - group["lr"] * (direction + group["weight_decay"] * p))
                m.copy_(0.99 * m + 0.01 * p.grad)


def optimisers_and_schedules(root, samples):
    """Stage one once more under each optimiser and schedule that is neither the default's, and with rates by name."""
    cases = {
        "sgd": (0.3, lambda g: torch.optim.SGD(g, lr=0.3, momentum=0.9), "polynomial", dict(power=2.0, lr_end=1e-3),
                ["--optim", "sgd", "--momentum", 0.9, "--lr_power", 2, "--lr_end", 1e-3]),
        "plain_sgd": (0.5, lambda g: torch.optim.SGD(g, lr=0.5), "cosine", {}, ["--optim", "sgd"]),
        "lion": (3e-3, Lion, "inverse_sqrt", {}, ["--optim", "lion", "--beta2", 0.99]),
        "adamw": (1e-2, None, "constant_with_warmup", {}, ["--warmup_ratio", 0.3]),
        "constant": (1e-2, None, "constant", {}, []),
        "clipped": (1e-2, None, "cosine", {}, ["--max_grad_norm", 0, "--max_grad_value", CLIP]),
        "rates": (1e-2, None, "linear", {}, ["--lr_groups", "mm_projector.0=3e-2", "mm_projector.2.weight=1e-3:0.5"]),
        "deepspeed": (1e-2, None, "warmup_decay", {}, ["--warmup_steps", 2]),
    }
    for name, (rate, optimizer, kind, extra, flags) in cases.items():
        reference = Reference(root, root / "first.bin")
        trained = [(f"model.mm_projector.{k}", p) for k, p in reference.projector.named_parameters()]
        rates = {"mm_projector.0": (3e-2, 0.1), "mm_projector.2.weight": (1e-3, 0.5)} if name == "rates" else None
        want = reference.train(samples, trained, rate, rates, optimizer, lambda o: schedule_of(kind, o, extra),
                               CLIP if name == "clipped" else None)
        for ranks in (1, 3):
            _, losses = train(root, f"opt_{name}_{ranks}", ranks, "--tune_mm_mlp_adapter", "--lr", rate, *flags,
                              "--lr_scheduler_type", kind, "--pretrain_mm_mlp_adapter", root / "first.bin",
                              "--export_merged", "false")
            near(losses, want, f"{name}, {kind}, {ranks} ranks")
    done = run(1, "train", "--recipe", "llava", "--version", root / "base", "--vision_tower", root / "clip", "--shards",
               root / "shards", "--tune_mm_mlp_adapter", "--batch_size", 1, "--global_batch_size", SAMPLES,
               "--lr_groups", "mm_projectr=1", "--log_base_dir", root / "runs")
    assert done.returncode == 2 and "'mm_projector'" in done.stderr, done.stderr
    done = run(1, "train", "--recipe", "llava", "--version", root / "base", "--vision_tower", root / "clip", "--shards",
               root / "shards", "--mm_projector_type", "mlp2x_gelu", "--tune_mm_mlp_adapter", "--batch_size", 1,
               "--global_batch_size", SAMPLES,
               "--log_base_dir", root / "runs", "--exp_name", "opt_sgd_1", "--optim", "lion", "--max_steps", 9)
    assert done.returncode == 2 and "--optim" in done.stderr and "sgd" in done.stderr, done.stderr


def stage_two(root, samples, projector):
    reference = Reference(root, projector)
    trained = list(reference.language.named_parameters())
    trained += [(f"model.mm_projector.{k}", p) for k, p in reference.projector.named_parameters()]
    want = reference.train(samples, trained, 2e-3, {"mm_projector": 5e-3})
    for ranks in (1, 2):
        folder, losses = train(root, f"two_{ranks}", ranks, "--lr", 2e-3, "--mm_projector_lr", 5e-3,
                               "--pretrain_mm_mlp_adapter", projector)
        near(losses, want, f"stage two, {ranks} ranks")
    config = json.loads((folder / "merged" / "config.json").read_text())
    assert config["model_type"] == "llava_llama" and config["mm_projector_type"] == "mlp2x_gelu", config
    merged = LlamaForCausalLM.from_pretrained(folder / "merged", config=reference.language.config)
    for (name, got), (_, wanted) in zip(merged.named_parameters(), reference.language.named_parameters()):
        assert torch.allclose(got, wanted, atol=1e-4), name


def smoothed_labels(root, samples, projector):
    """Under transformers' LabelSmoother, with a head that trains and one that is frozen, and of a validation."""
    for name, flags in (("trained", []), ("frozen", ["--tune_mm_mlp_adapter"])):
        reference = Reference(root, projector)
        reference.smoothing = 0.2
        trained = [(f"model.mm_projector.{k}", p) for k, p in reference.projector.named_parameters()]
        if name == "trained":
            trained += list(reference.language.named_parameters())
        with torch.no_grad():
            first = reference.loss(samples).item()
        want = reference.train(samples, trained, 5e-3)
        for ranks in (1, 3):
            folder, losses = train(root, f"smoothed_{name}_{ranks}", ranks, *flags, "--lr", 5e-3,
                                   "--label_smoothing_factor", 0.2, "--pretrain_mm_mlp_adapter", projector,
                                   "--export_merged", "false", "--val_shards", root / "shards", "--eval_steps", 1)
            near(losses, want, f"smoothed labels, {name} head, {ranks} ranks")
            judged = [v for v in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()) if "val_loss" in v]
            assert abs(judged[0]["val_loss"] - first) < 1e-4 * first, (judged[0], first)  # step 1's rate is 0


def noise_on_embeddings(root, projector):
    """NEFTune: the same losses to the last bit on any number of ranks and through a resume, and no noise in a
    validation."""
    flags = ["--pretrain_mm_mlp_adapter", projector, "--tune_mm_mlp_adapter", "--lr", 1e-2, "--neftune_noise_alpha", 5,
             "--export_merged", "false", "--val_shards", root / "shards"]
    curves = [train(root, f"noise_{ranks}", ranks, *flags)[1] for ranks in (1, 2, 3)]
    assert curves[0] == curves[1] == curves[2], curves
    train(root, "noise_halves", 2, *flags, "--max_steps", 3, "--warmup_steps", 2, "--lr_scheduler_type", "constant")
    _, halves = train(root, "noise_halves", 3, *flags, "--warmup_steps", 2, "--lr_scheduler_type", "constant")
    _, whole = train(root, "noise_whole", 1, *flags, "--warmup_steps", 2, "--lr_scheduler_type", "constant")
    assert halves == whole, (halves, whole)
    _, quiet = train(root, "quiet", 1, *flags, "--neftune_noise_alpha", 0)
    assert all(a != b for a, b in zip(curves[0], quiet)), (curves[0], quiet)
    still = [train(root, f"still_{alpha}", 1, *flags, "--neftune_noise_alpha", alpha, "--lr", 0, "--max_steps", 1)[0]
             for alpha in (0, 5)]
    judged = [next(v["val_loss"] for v in map(json.loads, (f / "metrics.jsonl").read_text().splitlines())
                   if "val_loss" in v) for f in still]
    assert judged[0] == judged[1], judged
    print("noise on embeddings: the same on 1, 2 and 3 ranks and through a resume")


def best_at_the_end(root, projector):
    """What is written out is the best checkpoint's, and without the flag the last step's."""
    flags = ["--pretrain_mm_mlp_adapter", projector, "--tune_mm_mlp_adapter", "--val_shards", root / "shards",
             "--eval_steps", 1, "--save_steps", 1, "--optim", "sgd", "--lr_scheduler_type", "constant"]
    written = {}
    for steps, more in ((2, []), (4, []), (4, ["--load_best_model_at_end", "--greater_is_better", "true"])):
        name = f"last_{steps}_{len(more)}"
        # Worst comes first where the loss falls: with greater_is_better that is the best.
        folder, _ = train(root, name, 2, *flags, "--lr", 0.1, "--max_steps", steps, *more)
        written[name] = torch.load(folder / "mm_projector.bin", weights_only=True)
        best = [p.name for p in (folder / "best").iterdir()]
    assert best == ["step-1"], best
    _, _ = train(root, "first_step", 2, *flags, "--lr", 0.1, "--max_steps", 1)
    first = torch.load(root / "runs" / "first_step" / "mm_projector.bin", weights_only=True)
    def same(a, b):
        return all(torch.equal(a[k], b[k]) for k in a)
    assert same(written["last_4_3"], first), "not the best step's weights"
    assert not same(written["last_4_0"], first) and not same(written["last_4_0"], written["last_2_0"])
    print("the best checkpoint's weights are written out")


def stage_two_lora(root, samples, projector):
    flags = ["--lora_enable", "--lora_r", 4, "--lora_alpha", 8, "--pretrain_mm_mlp_adapter", projector]
    still, _ = train(root, "still", 1, *flags, "--lr", 0, "--max_steps", 1)  # the adapter as it is drawn
    reference = Reference(root, projector)
    reference.language = get_peft_model(
        reference.language, LoraConfig(r=4, lora_alpha=8, lora_dropout=0.0, target_modules=LAYERS, task_type="CAUSAL_LM")
    )
    from safetensors.torch import load_file

    drawn = load_file(still / "adapter" / "adapter_model.safetensors")
    own = {k.replace(".default.", "."): v for k, v in reference.language.named_parameters() if "lora_" in k}
    assert set(own) == set(drawn)
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(drawn[name])
    trained = [(k, p) for k, p in reference.language.named_parameters() if p.requires_grad]
    trained += [(f"model.mm_projector.{k}", p) for k, p in reference.projector.named_parameters()]
    want = reference.train(samples, trained, 1e-2, {"mm_projector": 2e-3})
    for ranks in (1, 2):
        folder, losses = train(root, f"lora_{ranks}", ranks, *flags, "--lr", 1e-2, "--mm_projector_lr", 2e-3)
        near(losses, want, f"stage two with LoRA, {ranks} ranks")
    base = LlamaForCausalLM.from_pretrained(root / "base", attn_implementation="eager")
    opened = PeftModel.from_pretrained(base, folder / "adapter")
    ids = torch.arange(3, 20)[None]
    assert torch.allclose(opened(ids).logits, reference.language(ids).logits, atol=1e-3)
    others = torch.load(folder / "adapter" / "non_lora_trainables.bin", weights_only=True)  # as LLaVA's trainer has it
    assert set(others) == {f"base_model.model.model.mm_projector.{k}" for k in reference.projector.state_dict()}


def from_an_adapter(root, samples, projector):
    """A stage that starts from an adapter: one that PEFT wrote, as PeftModel.from_pretrained(is_trainable=True) goes on
    from it, and one of a run here with the projector beside it."""
    torch.manual_seed(5)
    flags = ["--lr", 1e-2, "--mm_projector_lr", 2e-3, "--pretrain_mm_mlp_adapter", projector]
    settings = LoraConfig(r=3, lora_alpha=7, lora_dropout=0.0, use_rslora=True, init_lora_weights=False,
                          target_modules=["q_proj", "v_proj", "down_proj"], rank_pattern={"1.self_attn.q_proj": 2},
                          modules_to_save=["lm_head"], task_type="CAUSAL_LM")
    first = get_peft_model(LlamaForCausalLM.from_pretrained(root / "base"), settings)
    with torch.no_grad():
        first.get_output_embeddings().weight.mul_(1.1)
    first.save_pretrained(root / "by_peft")
    first.save_pretrained(root / "by_peft_bin", safe_serialization=False)
    reference = Reference(root, projector)
    reference.language = PeftModel.from_pretrained(reference.language, root / "by_peft", is_trainable=True)
    trained = [(k, p) for k, p in reference.language.named_parameters() if p.requires_grad]
    trained += [(f"model.mm_projector.{k}", p) for k, p in reference.projector.named_parameters()]
    want = reference.train(samples, trained, 1e-2, {"mm_projector": 2e-3})
    for ranks, saved, flag in ((1, "by_peft", "--adapter"), (3, "by_peft_bin", "--lora_weight_path")):
        folder, losses = train(root, f"from_{saved}", ranks, *flags, flag, root / saved)
        near(losses, want, f"LoRA from PEFT's adapter, {ranks} ranks")
    # What was written goes on here and in PEFT alike.
    reference.language = PeftModel.from_pretrained(LlamaForCausalLM.from_pretrained(root / "base"), folder / "adapter",
                                                   is_trainable=True)
    others = torch.load(folder / "adapter" / "non_lora_trainables.bin", weights_only=True)
    reference.projector.load_state_dict({k.split("mm_projector.")[1]: v for k, v in others.items()})
    trained = [(k, p) for k, p in reference.language.named_parameters() if p.requires_grad]
    want = reference.train(samples, trained, 1e-2)
    go_on = ["--adapter", folder / "adapter", "--freeze_mm_mlp_adapter", "--lr", 1e-2]
    for ranks in (1, 3):
        folder, losses = train(root, f"gone_on_{ranks}", ranks, *go_on)
        near(losses, want, f"LoRA from that run's adapter, the projector frozen, {ranks} ranks")
    # The frozen projector is the adapter's own, so it is left with it.
    kept = torch.load(folder / "adapter" / "non_lora_trainables.bin", weights_only=True)
    assert set(kept) == set(others) and all(torch.equal(kept[k], others[k]) for k in kept)
    from_pissa(root, samples, projector)
    refused_adapters(root, projector)


def from_pissa(root, samples, projector):
    """PEFT's file of such an adapter is for what the decomposition left of the base; what is written here is for the base."""
    reference = Reference(root, projector)
    reference.language = get_peft_model(reference.language, LoraConfig(
        r=3, lora_alpha=6, lora_dropout=0.0, init_lora_weights="pissa", target_modules=["q_proj", "down_proj"]))
    with torch.no_grad():
        for name, parameter in reference.language.named_parameters():
            if "lora_" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
        want = reference.loss(samples).item()
    reference.language.save_pretrained(root / "pissa")
    for ranks in (1, 3):
        folder, losses = train(root, f"from_pissa_{ranks}", ranks, "--adapter", root / "pissa", "--lr", 0, "--max_steps", 1,
                               "--pretrain_mm_mlp_adapter", projector)
        assert abs(losses[0] - want) < 1e-4 * want, (losses, want)
    reference.language = PeftModel.from_pretrained(LlamaForCausalLM.from_pretrained(root / "base"), folder / "adapter")
    with torch.no_grad():
        assert abs(reference.loss(samples).item() - want) < 1e-4 * want
    assert json.loads((folder / "adapter" / "adapter_config.json").read_text())["r"] == 6


def refused_adapters(root, projector):
    for wrong, words in [(["--adapter", root / "clip"], ["adapter_config.json"]),
                         (["--adapter", root / "by_peft", "--lora_r", 4], ["--lora_r 4", "by_peft", "has 3"]),
                         (["--adapter", root / "by_peft", "--use_dora"], ["--use_dora true", "by_peft"]),
                         (["--adapter", root / "by_peft", "--target_modules", "q_proj"], ["--target_modules", "by_peft"]),
                         (["--adapter", root / "by_peft", root / "by_peft_bin"], ["two adapters"]),
                         (["--adapter", root / "by_peft", "--lora_enable", "false"], ["--lora_enable false", "by_peft"])]:
        done = run(2, "train", "--recipe", "llava", "--version", root / "base", "--vision_tower", root / "clip", "--shards",
                   root / "shards", "--mm_projector_type", "mlp2x_gelu", "--pretrain_mm_mlp_adapter", projector,
                   "--log_base_dir", root / "refused", *wrong)
        lines = [line for line in done.stderr.splitlines() if "error" in line.lower()]
        assert done.returncode == 2 and len(lines) == 1 and all(w in lines[0] for w in words), (wrong, done.stderr)


def dropout_everywhere(root, projector):
    """The dropout of adapters in every part of the model is drawn by sample, so it is the same on any number of ranks."""
    curves = {}
    for ranks, dropout in ((1, 0), (1, 0.3), (3, 0.3)):
        _, curves[ranks, dropout] = train(
            root, f"dropout_{ranks}_{dropout}", ranks, "--lora_enable", "--lora_r", 4, "--lora_dropout", dropout,
            "--target_modules", ".*(q_proj|fc1|mm_projector.0|lm_head)", "--pretrain_mm_mlp_adapter", projector,
            "--lr", 1e-2, "--max_steps", 3, "--export_merged", "false")
    assert curves[1, 0.3] == curves[3, 0.3] != curves[1, 0], curves


def configuration_files(root):
    """launch/llava_*.toml at toy size: stage one, then LoRA from its projector, on two ranks, through a kill."""
    here = ["--version", root / "base", "--vision_tower", root / "clip", "--shards", root / "shards", "--precision",
            "fp32", "--batch_size", 1, "--global_batch_size", 4, "--log_base_dir", root / "files"]
    must(2, "train", "--config", SOURCE / "launch" / "llava_pretrain.toml", *here, "--max_steps", 4)
    projector = root / "files" / "llava-pretrain" / "mm_projector.bin"
    assert projector.exists()
    flags = ["--config", SOURCE / "launch" / "llava_lora.toml", *here, "--pretrain_mm_mlp_adapter", projector,
             "--lora_r", 4, "--save_steps", 1, "--max_steps", 60]
    killed_and_resumed(root / "files", ["train", *flags])
    print("from configuration files, through a kill: the same losses to the last bit")


def validation(root, samples, projector):
    """The mean loss over held-back samples, each once, on any number of ranks; the best checkpoint is the lowest's."""
    reference = Reference(root, projector)
    with torch.no_grad():
        want = reference.loss(samples).item()
    flags = ["--pretrain_mm_mlp_adapter", projector, "--val_shards", root / "shards", "--export_merged", "false",
             "--tune_mm_mlp_adapter"]
    found = []
    for ranks in (1, 2, 3):
        folder, _ = train(root, f"validated_{ranks}", ranks, *flags, "--lr", 0, "--max_steps", 1, "--batch_size", 1,
                          "--global_batch_size", ranks)
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines() if "val_loss" in line]
        assert len(lines) == 1 and lines[0]["val_samples"] == len(samples), lines
        found.append((lines[0]["val_loss"], lines[0]["val_tokens"]))
    assert len(set(found)) == 1, found
    assert abs(found[0][0] - want) < 1e-4 * want, (found, want)
    folder, _ = train(root, "best", 2, *flags, "--lr", 1e-2, "--eval_steps", 2, "--optim", "sgd")
    losses = {line["step"]: line["val_loss"] for line in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
              if "val_loss" in line}
    assert sorted(losses) == [2, 4, 6], losses
    best = min(losses, key=losses.get)
    assert [p.name for p in (folder / "best").iterdir()] == [f"step-{best}"], (losses, list((folder / "best").iterdir()))
    print(f"validation: {found[0][0]:.4f} on 1, 2 and 3 ranks, {abs(found[0][0] - want) / want:.1e} from the reference")


def refusals(root):
    for flags, word in [(["--tune_mm_mlp_adapter", "--lora_enable"], "--lora_enable"),
                        (["--tune_mm_mlp_adapter", "--freeze_mm_mlp_adapter"], "--freeze_mm_mlp_adapter"),
                        (["--mm_vision_tower_lr", "1e-3", "--vision_tower", root / "clip"], "--unfreeze_mm_vision_tower"),
                        (["--lora_enable", "--lora_r", "0"], "--lora_r")]:
        done = run(1, "train", "--recipe", "llava", "--version", root / "base", "--shards", root / "shards", *flags)
        assert done.returncode == 2 and word in done.stderr, (flags, done.stderr)
    done = run(1, "train", "--version", root / "base", "--shards", root / "shards", "--lora_enable")
    assert done.returncode == 2 and "--recipe llava" in done.stderr, done.stderr


with tempfile.TemporaryDirectory() as name:
    root = pathlib.Path(name)
    make_models(root)
    make_data(root)
    must(1, "prepare", "--dataset", "llava", "--data_path", root / "chat.json", "--image_folder", root / "images",
         "--version", root / "base", "--conv_type", "v1", "--draws", 1, "--output_dir", root / "shards", "--val_dataset", "")
    samples = read_samples(root, root / "shards")
    assert len(samples) == SAMPLES and sum(s[2] is None for s in samples) == 1
    projector = stage_one(root, samples)
    cut_rows(root, samples)
    events_of_a_run_begun_anew(root)
    stored_features(root)
    optimisers_and_schedules(root, samples)
    stage_two(root, samples, projector)
    stage_two_lora(root, samples, projector)
    from_an_adapter(root, samples, projector)
    smoothed_labels(root, samples, projector)
    noise_on_embeddings(root, projector)
    best_at_the_end(root, projector)
    dropout_everywhere(root, projector)
    validation(root, samples, projector)
    configuration_files(root)
    refusals(root)
print("ok")
