"""Every flag of the other commands that a training needs, and the check that shows its effect."""

from effects import Files, Needed, Output, Refused, Shown, Text, Threads, loaded_in_bits, quantised


ENGINE = ("train_test", "tests/train/engine_flags_test.cpp")


def of(command, kind, table):
    for check in table.values():
        check.command, check.kind = command, kind
    return table


PREPARE_LISA = of("prepare", "lisa", {
    "dataset_dir": Refused("--dataset_dir", "nowhere", words=["nowhere"]),
    "dataset": Output("--dataset", "reason_seg"),
    "reason_seg_data": Output("--reason_seg_data", "ReasonSeg|train_describe"),
    "sem_seg_data": Output("--sem_seg_data", "nothing"),
    "refer_seg_data": Refused("--refer_seg_data", "nothing", "--dataset", "refer_seg", words=["nothing"]),
    "vqa_data": Refused("--vqa_data", "nothing", "--dataset", "vqa", words=["nothing"]),
    "part_union": Shown("data_test", "tests/data/sem_seg_test.cpp", "part_union"),
    "own_data": Refused("--own_data", "nowhere", "--dataset", "own", words=["nowhere"]),
    "val_dataset": Files("val-*.h5", "--val_dataset", "", there=False),
    "explanatory": Shown("data_test", "tests/data/reason_seg_test.cpp", "explanatory"),
    "num_classes_per_sample": Output("--num_classes_per_sample", "1"),
    "polygon_slack": Text(r"(\d+) skipped", "--polygon_slack", "9", base=["--dataset_dir", "{root}/scenes-far"]),
    "version": Refused("--version", "nowhere", words=["nowhere"]),
    "conv_type": Output("--conv_type", "llava_llama_2"),
    "recipe": Refused("--recipe", "llava", words=["--recipe llava"]),
    "model_max_length": Shown("text_test", "tests/text/conversation_test.cpp", "max_length"),
    "use_mm_start_end": Output("--use_mm_start_end", "false"),
    "output_dir": Files("elsewhere/manifest.json", "--output_dir", "{folder}/elsewhere"),
    "shard_mib": Shown("data_prepare_mpi_test", "tests/data/prepare_mpi_test.cpp", "shard_mib"),
    "draws": Output("--draws", "2"),
    "seed": Output("--seed", "7"),
    "workers": Threads("--workers", "9"),
    "quiet": Text("prepare", "--quiet", "false"),
    "strict": Shown("data_prepare_mpi_test", "tests/data/prepare_mpi_test.cpp", "strict"),
    "check": Files("manifest.json", "--check", there=False),
    "store_features": Refused("--store_features", "dino", words=["dino"]),
    "vision_tower": Shown("train.llava_stages", "tests/train/llava_stages_test.py", "--vision_tower"),
    "vision_pretrained": Refused("--vision_pretrained", "nowhere.pth", words=["--store_features"]),
    "hub_dir": Refused("--hub_dir", "nowhere", words=["--store_features"]),
    "precision": Refused("--precision", "bf16", words=["--store_features"]),
    "placement": Shown("data_towers_test", "tests/data/frozen_towers_test.cpp", "resident"),
    "mm_vision_select_layer": Refused("--mm_vision_select_layer", "-1", words=["--store_features"]),
    "mm_vision_select_feature": Refused("--mm_vision_select_feature", "patch", words=["--store_features"]),
    "image_aspect_ratio": Refused("--image_aspect_ratio", "pad", words=["--store_features"]),
})
PREPARE_LLAVA = of("prepare", "llava", {
    "data_path": Output("--data_path", "{root}/more.json"),
    "image_folder": Refused("--image_folder", "nowhere", words=["--image_folder names 2 folders"]),
})

EVAL = of("eval", "lisa", {
    "version": Refused("--version", "nowhere", words=["nowhere"]),
    "vision_tower": Refused("--vision_tower", "nowhere", words=["nowhere"]),
    "vision_pretrained": Refused("--vision_pretrained", "nowhere.pth", words=["nowhere.pth"]),
    "hub_dir": Needed("--hub_dir", "{root}/hub", base=["--vision_tower", "some/clip"]),
    "precision": Text(r'"[gc]iou":[\d.e-]+', "--precision", "bf16"),
    "val_shards": Refused("--val_shards", "nowhere", words=["nowhere"]),
    "random_init": Refused("--random_init", "false", words=["weights"]),
    "split": Text(r'"masks":\d+', "--split", "train"),
    "max_items": Text(r'"masks":\d+', "--max_items", "1"),
    "workers": Shown("data_test", "tests/data/loader_test.cpp", "workers"),
    "count_padding": Shown("data_stream_test", "tests/data/loader_test.cpp", "count_padding"),
    "vis_save_path": Files("pictures/*.png", "--vis_save_path", "{folder}/pictures", base=["--vis_samples", "2"]),
    "vis_samples": Files("pictures/*.png", "--vis_samples", "2", base=["--vis_save_path", "{folder}/pictures"]),
    "output": Files("report.json", "--output", "{folder}/report.json"),
    "baseline_shards": Text("baseline", "--baseline_shards", "{root}/shards-lisa"),
    "seed": Text(r'"[gc]iou":[\d.e-]+', "--seed", "7"),
    "memory_budget": Refused("--memory_budget", "0.001", words=["--memory_budget"]),
    "placement": Text("plan: .*", "--placement", "world"),
    "resident_frozen": Refused("--resident_frozen", words=["--placement"], base=["--placement", "world"]),
    "prefetch": Shown(*ENGINE, "--prefetch"),
    "keep_mib": Shown(*ENGINE, "--keep_mib"),
    "offload_frozen": Text("plan: .*", "--offload_frozen", "true"),
})

FORWARD = of("forward", "lisa", {
    "model": Refused("--model", "nowhere", words=["nowhere"]),
    "vision_tower": Refused("--vision_tower", "nowhere", words=["nowhere"]),
    "vision_pretrained": Refused("--vision_pretrained", "nowhere.pth", words=["nowhere.pth"]),
    "hub_dir": Needed("--hub_dir", "{golden}", base=["--vision_tower", "lisa_linear/clip"]),
    "inputs": Refused("--inputs", "nowhere", words=["nowhere"]),
    "outputs": Files("other.safetensors", "--outputs", "{folder}/other.safetensors"),
}) | of("forward", "lora", {
    "adapter": Output("--adapter", "{golden}/lora_query_value/adapter"),
    "merge": Output("--merge", base=["--adapter", "{golden}/lora_query_value/adapter"]),
    "dtype": Output("--dtype", "bf16"),
    "grads": Output("--grads", "all"),
    **quantised(Output),
    "dump_quantized": Output("--dump_quantized", "q_proj", base=["--quantize", "nf4"]),
}) | of("forward", "clip", {"select_layer": Output("--select_layer", "1")})

MERGE = of("merge", "lora", {
    "model": Refused("--model", "nowhere", words=["nowhere"]),
    "adapter": Refused("--adapter", "nowhere", words=["nowhere"]),
    "output": Files("other/config.json", "--output", "{folder}/other"),
    "max_shard_size": Files("merged/model.safetensors.index.json", "--max_shard_size", "9KB"),
})


def figures(*flags, **rest):
    return Text(r"(?m)^(?!ranks|model ).*\d.*$", *flags, **rest)


PLAN = of("plan", "lisa", {
    "model": figures("--model", "lisa-13b"),
    "lora_r": figures("--lora_r", "64"),
    "lora_target_modules": figures("--lora_target_modules", "q_proj"),
    "target_modules": figures("--target_modules", "gate_proj"),
    "exclude_modules": figures("--exclude_modules", "up_proj", base=["--target_modules", "gate_proj", "up_proj"]),
    "layers_to_transform": figures("--layers_to_transform", "1", base=["--target_modules", "q_proj"]),
    "layers_pattern": Refused("--layers_pattern", "blocks", base=["--target_modules", "q_proj",
                                                                  "--layers_to_transform", "1"]),
    "rank_pattern": figures("--rank_pattern", "q_proj=2"),
    "alpha_pattern": Refused("--alpha_pattern", "nothing=2", words=["nothing"]),
    "use_rslora": Shown("adapt_test", "tests/adapt/lora_test.cpp", "rslora"),
    "use_dora": figures("--use_dora"),
    "lora_bias": figures("--lora_bias", "true", base=["--target_modules", ".*vision_tower.*q_proj"]),
    "init_lora_weights": Shown("adapt_test", "tests/adapt/lora_test.cpp", "LoraInit::gaussian"),
    "modules_to_save": figures("--modules_to_save", "norm"),
    "peft_type": figures("--peft_type", "adalora"),
    "init_r": figures("--init_r", "40", base=["--peft_type", "adalora"]),
    **{flag: Shown("train_test", "tests/train/adapter_flags_test.cpp", flag) for flag in (
        "target_r", "tinit", "tfinal", "deltaT", "total_step", "adalora_beta1", "adalora_beta2", "orth_reg_weight")},
    "num_virtual_tokens": figures("--num_virtual_tokens", "3"),
    "prefix_projection": figures("--prefix_projection", base=["--num_virtual_tokens", "3"]),
    "encoder_hidden_size": figures("--encoder_hidden_size", "5",
                                   base=["--num_virtual_tokens", "3", "--prefix_projection"]),
    "train_scope": figures("--train_scope", "lora"),
    "precision": figures("--precision", "fp32"),
    "optim": figures("--optim", "adamw_8bit"),
    "momentum": figures("--momentum", "0.9", base=["--optim", "sgd"]),
    "ema_decay": figures("--ema_decay", "0.9"),
    "units": figures("--units"),
    "memory_budget": Refused("--memory_budget", "1", words=["--memory_budget"]),
    "placement": figures("--placement", "resident"),
    "resident_frozen": Refused("--resident_frozen", words=["--placement"], base=["--placement", "world"]),
    "prefetch": figures("--prefetch", "4", base=["--placement", "world", "--keep_mib", "0"]),
    "keep_mib": figures("--keep_mib", "0", base=["--placement", "world"]),
    "offload_frozen": figures("--offload_frozen", "true"),
    "gradient_checkpointing": figures("--gradient_checkpointing", "false", base=["--memory_gib", "200"]),
    "recompute": figures("--recompute", "all"),
    "layer_major": figures("--layer_major", "5", base=["--placement", "world"]),
    "reproducible": Shown("train_test", "tests/train/engine_flags_test.cpp", "reproducible"),
    "tf32": Shown("train_test", "tests/train/engine_flags_test.cpp", "tf32"),
    **quantised(figures),
    **loaded_in_bits(figures),
    "offload_optimizer": figures("--offload_optimizer", "true"),
    "async_save": figures("--async_save", "false"),
    "ranks": figures("--ranks", "8"),
    "gpus_per_node": figures("--gpus_per_node", "2", base=["--placement", "node", "--keep_mib", "0"]),
    "memory_gib": figures("--memory_gib", "24"),
    "baseline_gib": figures("--baseline_gib", "3"),
    "tflops": figures("--tflops", "10"),
    "memory_gbs": figures("--memory_gbs", "10"),
    "link_gbs": figures("--link_gbs", "1", base=["--placement", "world"]),
    "node_link_gbs": figures("--node_link_gbs", "1", base=["--placement", "world"]),
    "host_link_gbs": figures("--host_link_gbs", "1", base=["--offload_frozen", "true"]),
    "overlap": figures("--overlap", "false"),
    "batch_size": figures("--batch_size", "1"),
    "conversations": figures("--conversations", "1"),
    "masks": figures("--masks", "1"),
    "mask_pixels": figures("--mask_pixels", "4000000"),
    "model_max_length": figures("--model_max_length", "300"),
    "grad_accumulation_steps": figures("--grad_accumulation_steps", "2"),
})

COMMANDS = {"prepare": PREPARE_LISA | PREPARE_LLAVA, "eval": EVAL, "forward": FORWARD, "merge": MERGE, "plan": PLAN}
