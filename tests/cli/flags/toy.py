"""A miniature LISA and a miniature LLaVA with prepared data, and a way to run the program on them."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import h5py
from effects import read_metrics

SOURCE = pathlib.Path(os.environ["TESSERA_SOURCE_DIR"])
sys.path.insert(0, str(SOURCE / "tests/support"))
from llama_weights import write_llama  # noqa: E402

PROGRAM = os.environ["TESSERA_PROGRAM"]

LANGUAGE = {"vocab_size": 640, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 4, "rms_norm_eps": 1e-5, "initializer_range": 0.1,
            "max_position_embeddings": 1024, "hidden_act": "silu", "tie_word_embeddings": False}
SAM = {"image_size": 64, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "mlp_ratio": 4.0,
       "global_attn_indexes": [1], "window_size": 5, "prompt_embed_dim": 32, "mask_in_chans": 16, "decoder_depth": 2,
       "decoder_mlp_dim": 64, "decoder_num_heads": 4, "num_multimask_outputs": 3, "iou_head_depth": 3,
       "iou_head_hidden_dim": 32, "norm_eps": 1e-6}
LISA = LANGUAGE | {"model_type": "llava", "architectures": ["LISAForCausalLM"], "mm_vision_tower": "clip",
                   "mm_hidden_size": 32, "mm_vision_select_layer": -2, "mm_vision_select_feature": "patch",
                   "mm_use_im_start_end": True, "out_dim": 32, "train_mask_decoder": True, "sam_config": SAM}
CLIP = {"model_type": "clip_vision_model", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3,
        "num_attention_heads": 2, "image_size": 32, "patch_size": 8, "num_channels": 3, "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5, "initializer_range": 0.1}
PROCESSOR = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}, "do_resize": True,
             "do_center_crop": True, "do_normalize": True, "resample": 3,
             "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}


class Run:
    def __init__(self, folder, output):
        self.folder, self.output = folder, output

    def series(self, key):
        return [line[key] for line in read_metrics(self.folder / "metrics.jsonl") if key in line]

    def written(self):
        """Every file of the folder: tables of HDF5 as they are, all else as bytes."""
        out = {}
        for path in sorted(p for p in self.folder.rglob("*") if p.is_file()):
            if path.suffix == ".h5":
                with h5py.File(path) as file:
                    file.visititems(lambda n, d: out.update({f"{path.name}/{n}": d[()].tobytes()})
                                    if isinstance(d, h5py.Dataset) else None)
                    out[path.name] = sorted((k, str(v)) for k, v in file.attrs.items() if "time" not in k)
            elif path.name != "manifest.json":
                out[path.name] = path.read_bytes()
        return out


class Toy:
    def __init__(self, root):
        self.root, self.source, self.done, self.number, self._ctests = root, SOURCE, {}, 0, None
        self.model("lisa", LISA)
        self.model("llava", LANGUAGE | {"model_type": "llama"})
        subprocess.run([sys.executable, SOURCE / "launch/make_scenes.py", "--out", root / "scenes", "--size", "64",
                        "--train", "16", "--train_describe", "4", "--val", "3"], check=True, capture_output=True)
        write_llama(root / "llava", LANGUAGE)
        self.scenes_far()
        self.conversations()
        self.bases()
        for kind in ("lisa", "llava"):
            done = self.run("prepare", kind, [])
            shutil.copytree(done.folder, root / f"shards-{kind}")
        shutil.copytree(self.run("train", "lisa", []).folder / "adapter", root / "adapter")

    def model(self, name, config):
        folder = self.root / name
        (folder / "clip").mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(config))
        for at in (folder / "clip", self.root / "hub/some/clip"):
            at.mkdir(parents=True, exist_ok=True)
            (at / "config.json").write_text(json.dumps(CLIP))
            (at / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
        shutil.copy(SOURCE / "launch/toy/lisa/tokenizer.model", folder / "tokenizer.model")

    def scenes_far(self):
        """The scenes once more; a polygon of the first of them ends five pixels outside."""
        shutil.copytree(self.root / "scenes", self.root / "scenes-far")
        path = min((self.root / "scenes-far/reason_seg/ReasonSeg/train_names").glob("*.json"))
        record = json.loads(path.read_text())
        record["shapes"][0]["points"][0] = [-5.0, 3.0]
        path.write_text(json.dumps(record))

    def conversations(self):
        from PIL import Image

        images = self.root / "pictures"
        images.mkdir()
        records = []
        for i in range(6):
            turns = [{"from": "human", "value": "What is it?" if i == 4 else "<image>\nWhat is it?"},
                     {"from": "gpt", "value": "It is a thing" + " of some kind" * i + "."}]
            record = {"id": str(i), "conversations": turns}
            if i != 4:
                record["image"] = f"{i}.png"
                Image.effect_noise((40 + 7 * i, 52), 90 + i).convert("RGB").save(images / record["image"])
            records.append(record)
        (self.root / "zero.json").write_text('{"gradient_clipping": 0.001}')
        (self.root / "chat.json").write_text(json.dumps(records))
        (self.root / "more.json").write_text(json.dumps(records[:2]))

    def bases(self):
        """What every run of a command has, by kind."""
        root = self.root
        steady = ["--batch_size", "2", "--workers", "1", "--warmup_steps", "0", "--lr", "1e-2", "--max_steps", "3",
                  "--export_merged", "false", "--log_base_dir", "{folder}/..", "--exp_name", "{name}"]
        train = ["--version", root / "lisa", "--random_init", "--shards", root / "shards-lisa", "--lora_r", "4",
                 "--lora_dropout", "0", "--grad_accumulation_steps", "2", "--model_max_length", "400"]
        llava = ["--recipe", "llava", "--version", root / "llava", "--vision_tower", root / "llava/clip", "--random_init",
                 "--shards", root / "shards-llava", "--save_steps", "0"]

        def forward(name):
            return ["--model", f"{{golden}}/{name}", "--inputs", f"{{golden}}/{name}/inputs.safetensors", "--outputs",
                    "{folder}/outputs.safetensors", "--dtype", "fp32"]

        self.base = {
            ("train", "lisa"): train + steady,
            ("train", "llava"): llava + steady,
            ("train", "unnamed"): llava[:2] + llava[4:] + steady,
            ("train", "drawn"): [f for f in train if f != "--random_init"] + steady,
            ("prepare", "lisa"): ["--version", root / "lisa", "--dataset_dir", root / "scenes", "--output_dir", "{folder}",
                                  "--reason_seg_data", "ReasonSeg|train_names", "--val_dataset", "ReasonSeg|val_names",
                                  "--explanatory", "-1", "--quiet"],
            ("prepare", "llava"): ["--version", root / "llava", "--dataset", "llava", "--data_path", root / "chat.json",
                                   "--image_folder", root / "pictures", "--output_dir", "{folder}", "--val_dataset", "",
                                   "--conv_type", "v1", "--quiet"],
            ("inspect", "lisa"): ["--shards", root / "shards-lisa"],
            ("plan", "lisa"): ["--model", "lisa-7b", "--ranks", "4", "--memory_gib", "80"],
            ("forward", "lisa"): forward("lisa_linear"),
            ("forward", "lora"): forward("lora_query_value"),
            ("forward", "clip"): forward("clip_31px_patch_6"),
            ("merge", "lora"): ["--model", "{golden}/lora_query_value", "--adapter",
                                "{golden}/lora_query_value/adapter", "--output", "{folder}/merged"],
            ("eval", "lisa"): ["--version", root / "lisa", "--random_init", "--val_shards", root / "shards-lisa",
                               "--workers", "1"],
        }

    def run(self, command, kind, extra, status=0):
        key = (command, kind, tuple(map(str, extra)))
        if key not in self.done:
            self.done[key] = self.start(command, kind, extra)
        run, got = self.done[key]
        assert got == status, f"{command} {' '.join(key[2])}: status {got}\n{run.output[-1500:]}"
        return run

    def arguments(self, command, kind, extra):
        """A new folder for a run, and its command line."""
        self.number += 1
        folder = self.root / "runs" / f"run{self.number}"
        folder.mkdir(parents=True)
        own = {"{folder}": str(folder), "{name}": folder.name, "{root}": str(self.root),
               "{golden}": str(SOURCE / "tests/golden/models/data")}
        arguments = [command] + [str(a) for a in self.base[command, kind] + list(extra)]
        for word, value in own.items():
            arguments = [a.replace(word, value) for a in arguments]
        return folder, [PROGRAM, *arguments]

    def start(self, command, kind, extra):
        folder, arguments = self.arguments(command, kind, extra)
        done = subprocess.run(arguments, capture_output=True, text=True, cwd=folder,
                              env=dict(os.environ, OMP_NUM_THREADS="1"))
        return Run(folder, done.stdout + done.stderr), done.returncode

    def most_threads(self, command, kind, extra):
        with subprocess.Popen(self.arguments(command, kind, extra)[1], stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL, env=dict(os.environ, OMP_NUM_THREADS="1")) as job:
            most = 0
            while job.poll() is None:
                try:
                    most = max(most, len(os.listdir(f"/proc/{job.pid}/task")))
                except FileNotFoundError:
                    break
        assert job.returncode == 0
        return most

    def help(self, *command):
        return subprocess.run([PROGRAM, *command, "--help"], capture_output=True, text=True, check=True).stdout

    def ctests(self):
        if self._ctests is None:
            listed = subprocess.run(["ctest", "--test-dir", os.environ["TESSERA_BUILD_DIR"], "-N"], capture_output=True,
                                    text=True, check=True).stdout
            self._ctests = [line.split(": ", 1)[1].strip() for line in listed.splitlines() if ": " in line]
        return self._ctests
