"""The workloads of tests/bench/engine.cpp in PyTorch, for comparison.

  python engine_python.py single --workload w1 [--checkpointing] [--threads 2]     transformers + PEFT, one process
  torchrun --nproc_per_node 2 engine_python.py fsdp2 --workload w1                 FSDP2 over gloo, a thread a rank
  torchrun --nproc_per_node 2 engine_python.py deepspeed --workload w1             ZeRO-3, where deepspeed is installed

The rows of a step are the same everywhere: 2 a rank (W3: 1) on two ranks, so 4 (2) in the single process. Times are
medians over the steps after two to warm up, of the slowest rank. Needs torch, transformers and peft.
"""

import argparse
import os
import resource
import statistics
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")
import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402

SHAPES = {
    "w1": dict(hidden=512, layers=8, heads=8, inner=1376, length=256, rows=2, lora=True, ends=True),
    "w2": dict(hidden=512, layers=8, heads=8, inner=1376, length=256, rows=2, lora=False, ends=True),
    "w3": dict(hidden=1024, layers=16, heads=16, inner=2752, length=512, rows=1, lora=True, ends=False),
}
VOCABULARY = 32000


def build(shape, checkpointing, reentrant=False):
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=shape["hidden"],
        num_hidden_layers=shape["layers"],
        num_attention_heads=shape["heads"],
        num_key_value_heads=shape["heads"],
        intermediate_size=shape["inner"],
        max_position_embeddings=1024,
        tie_word_embeddings=False,
        use_cache=False,
        attn_implementation="sdpa",
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    base = model
    if shape["lora"]:
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(
            model, LoraConfig(r=8, lora_alpha=16, lora_dropout=0.0, target_modules=["q_proj", "v_proj"])
        )
        if shape["ends"]:
            base.lm_head.weight.requires_grad_(True)
            base.model.embed_tokens.weight.requires_grad_(True)
    if checkpointing:
        base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
        if not shape["ends"]:
            base.enable_input_require_grads()
    model.train()
    return model, base


def batch_of(shape, rank, rows):
    generator = torch.Generator().manual_seed(7 + rank)
    return torch.randint(0, VOCABULARY, (rows, shape["length"]), generator=generator)


def steps(options, one_step, distributed):
    seconds = []
    for step in range(2 + options.steps):
        if distributed:
            dist.barrier()
        begin = time.perf_counter()
        one_step()
        mine = torch.tensor([time.perf_counter() - begin])
        if distributed:
            dist.all_reduce(mine, dist.ReduceOp.MAX)
        if step >= 2:
            seconds.append(mine.item())
    return seconds


class Traffic:
    """Bytes that a rank sends in gathers and reductions, counted as the engine counts its own."""

    def __init__(self):
        self.gathered = self.reduced = 0
        gather, reduce = dist.all_gather_into_tensor, dist.reduce_scatter_tensor

        def counted_gather(output, input, *args, **kwargs):
            self.gathered += output.nbytes - input.nbytes
            return gather(output, input, *args, **kwargs)

        def counted_reduce(output, input, *args, **kwargs):
            self.reduced += input.nbytes - output.nbytes
            return reduce(output, input, *args, **kwargs)

        dist.all_gather_into_tensor, dist.reduce_scatter_tensor = counted_gather, counted_reduce

    def report(self, steps):
        print(
            f"  sent by a rank in a step: gathered {self.gathered / steps / 2**20:.2f} MiB, "
            f"reduced {self.reduced / steps / 2**20:.2f} MiB"
        )


def report(options, shape, seconds, rows, ranks):
    step = statistics.median(seconds)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{options.engine} {options.workload} checkpointing={'on' if options.checkpointing else 'off'} ranks={ranks} "
        f"threads={torch.get_num_threads()}: step {step:.3f} s (best {min(seconds):.3f}), "
        f"{rows * shape['length'] / step:.0f} tokens/s, peak memory of a process {peak:.0f} MiB",
        flush=True,
    )


def run_single(options, shape):
    torch.set_num_threads(options.threads)
    model, _ = build(shape, options.checkpointing)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.0, fused=True)
    rows = 2 * shape["rows"]
    ids = batch_of(shape, 0, rows)

    def one_step():
        model(input_ids=ids, labels=ids).loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    report(options, shape, steps(options, one_step, False), rows, 1)


def run_fsdp2(options, shape):
    from torch.distributed.fsdp import fully_shard

    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    traffic = Traffic()
    mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (dist.get_world_size(),))
    model, base = build(shape, options.checkpointing)
    for layer in base.model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(base.model.embed_tokens, mesh=mesh)
    fully_shard([base.model.norm, base.lm_head], mesh=mesh)
    fully_shard(model, mesh=mesh)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.0, fused=True)
    ids = batch_of(shape, dist.get_rank(), shape["rows"])

    def one_step():
        model(input_ids=ids, labels=ids).loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    seconds = steps(options, one_step, True)
    if dist.get_rank() == 0:
        report(options, shape, seconds, shape["rows"] * dist.get_world_size(), dist.get_world_size())
        traffic.report(2 + options.steps)
    dist.destroy_process_group()


def run_deepspeed(options, shape):
    os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed

    torch.set_num_threads(1)
    deepspeed.init_distributed("gloo")
    # Its gathered weights look different when a non-reentrant checkpoint runs again, which then refuses.
    model, _ = build(shape, options.checkpointing, reentrant=True)
    rows = shape["rows"]
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.0)
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=optimizer,
        config={
            "train_micro_batch_size_per_gpu": rows,
            "gradient_clipping": 1.0,
            "zero_optimization": {"stage": 3},
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
        },
    )
    ids = batch_of(shape, dist.get_rank(), rows)

    def one_step():
        engine.backward(engine(input_ids=ids, labels=ids).loss)
        engine.step()

    seconds = steps(options, one_step, True)
    if dist.get_rank() == 0:
        report(options, shape, seconds, rows * dist.get_world_size(), dist.get_world_size())
    dist.destroy_process_group()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", choices=["single", "fsdp2", "deepspeed"])
    parser.add_argument("--workload", choices=sorted(SHAPES), default="w1")
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2, help="of the single process")
    options = parser.parse_args()
    run = {"single": run_single, "fsdp2": run_fsdp2, "deepspeed": run_deepspeed}[options.engine]
    run(options, SHAPES[options.workload])


if __name__ == "__main__":
    main()
