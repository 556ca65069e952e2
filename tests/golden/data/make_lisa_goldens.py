"""Goldens of LISA's data set classes: what they give for a miniature data set of each family, and the random choices
behind each sample, in the order in which our readers take theirs.

    python make_lisa_goldens.py --lisa CHECKOUT

with transformers==4.31.0 (its CLIPImageProcessor is built, its values are not used) or 4.37.2, torch, pycocotools 2.0,
opencv-python-headless==4.10.0.84 (release 5 draws other outlines), Pillow, numpy. CHECKOUT: dvlab-research/LISA at
3cb2d43. Its classes are imported and run with their random functions replaced by ones that note what they drew; no code
of it is kept here. Writes the data set, lisa_set/, and data/lisa_dataset.json: per sample the conversations' texts and
the masks as COCO run lengths.
"""
import argparse
import json
import os
import pathlib
import pickle
import random
import shutil
import sys
import tempfile
import types

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

HERE = pathlib.Path(__file__).parent
SET = HERE / "lisa_set"
WIDTH, HEIGHT = 40, 30


# --- the data set -----------------------------------------------------------------------------------------------------

def save(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text if isinstance(text, str) else json.dumps(text, separators=(",", ":")))


def photo(path, shade):
    path.parent.mkdir(parents=True, exist_ok=True)
    plane = np.add.outer(np.arange(HEIGHT) * 3, np.arange(WIDTH) * 2).astype(np.uint8)
    Image.fromarray(np.stack([plane, plane[::-1], np.full_like(plane, shade)], 2)).save(path, quality=60)


def labels(path, values):
    """Rows of equal bands, one for each value."""
    path.parent.mkdir(parents=True, exist_ok=True)
    bands = np.array_split(np.zeros((HEIGHT, WIDTH), np.uint8), len(values))
    Image.fromarray(np.concatenate([np.full_like(b, v) for b, v in zip(bands, values)])).save(path)


def coco_file(names, categories, per_image):
    annotations = []
    for image in range(len(names)):
        for k in range(per_image[image]):
            x, y = 2 + 5 * k, 1 + 4 * k
            shape = [[x, y, x + 11.5, y, x + 9.25, y + 12.5]]
            if k == 1:
                shape.append([1, 20, 12, 20, 12, 28, 1, 28])
            annotations.append({"id": 100 * image + k, "image_id": image, "category_id": 1 + k % len(categories),
                                "segmentation": shape, "area": 1, "bbox": [0, 0, 1, 1], "iscrowd": 0})
    return {"images": [{"id": i, "file_name": n, "height": HEIGHT, "width": WIDTH} for i, n in enumerate(names)],
            "annotations": annotations, "categories": [{"id": i + 1, "name": n} for i, n in enumerate(categories)]}


def make_set():
    shutil.rmtree(SET, ignore_errors=True)
    for n, values in enumerate(([0, 1, 3, 255, 150, 7], [5, 5], [255, 2, 12, 66, 4])):
        photo(SET / f"ade20k/images/training/a{n}.jpg", n)
        labels(SET / f"ade20k/annotations/training/a{n}.png", values)
    for n, values in enumerate(([0, 17, 255, 91, 180, 3], [16, 92, 100, 0])):
        photo(SET / f"coco/train2017/{n:012}.jpg", 40 + n)
        labels(SET / f"cocostuff/train2017/{n:012}.png", values)
    save(SET / "mapillary/config_v2.0.json", {"labels": [{"readable": n} for n in ("Bird", "Ground Animal", "Road", "Unlabeled")]})
    photo(SET / "mapillary/training/images/m0.jpg", 80)
    labels(SET / "mapillary/training/v2.0/labels/m0.png", [3, 0, 2, 1])
    parts = SET / "vlpart/pascal_part"
    for n in range(2):
        photo(parts / f"VOCdevkit/VOC2010/JPEGImages/p{n}.jpg", 90 + n)
    save(parts / "train.json", coco_file(["p0.jpg", "p1.jpg"], ["dog:head", "dog:left eye", "bus:wheel"], [5, 2]))
    save(SET / "vlpart/paco/annotations/paco_lvis_v1_train.json",
         coco_file(["train2017/000000000000.jpg", "train2017/000000000001.jpg"], ["cup_(drink):handle_(x)", "Cup"], [4, 1]))
    refer = SET / "refer_seg"
    for n in range(2):
        photo(refer / f"images/mscoco/images/train2014/r{n}.jpg", 120 + n)
    for name, by in (("refcoco", "unc"), ("refcocog", "umd")):
        save(refer / name / "instances.json", coco_file(["r0.jpg", "r1.jpg"], ["thing"], [3, 1]))
        refs = [{"ref_id": 1, "ann_id": 0, "category_id": 1, "image_id": 0, "split": "train", "file_name": "r0.jpg",
                 "sentences": [{"sent_id": 1, "sent": "The Left one ", "tokens": []}, {"sent_id": 2, "sent": "red cup", "tokens": []}], "sent_ids": [1, 2]},
                {"ref_id": 2, "ann_id": 1, "category_id": 1, "image_id": 0, "split": "train", "file_name": "r0.jpg",
                 "sentences": [{"sent_id": 3, "sent": "caf\u00c9 TABLE", "tokens": []}, {"sent_id": 4, "sent": "second", "tokens": []}], "sent_ids": [3, 4]},
                {"ref_id": 3, "ann_id": 100, "category_id": 1, "image_id": 1, "split": "train", "file_name": "r1.jpg",
                 "sentences": [{"sent_id": 5, "sent": "alone", "tokens": []}], "sent_ids": [5]},
                {"ref_id": 4, "ann_id": 2, "category_id": 1, "image_id": 0, "split": "val", "file_name": "r0.jpg",
                 "sentences": [{"sent_id": 6, "sent": "not in training", "tokens": []}], "sent_ids": [6]}]
        (refer / name / f"refs({by}).p").write_bytes(pickle.dumps(refs, 2))
    talk = [{"image": "000000000000.jpg", "conversations": [{"from": "human", "value": "What is it?\n<image>"},
                                                            {"from": "gpt", "value": "A cat."},
                                                            {"from": "human", "value": "Sure?"},
                                                            {"from": "gpt", "value": "Yes. "}]},
            {"image": "000000000001.jpg", "conversations": [{"from": "gpt", "value": "Hello."},
                                                            {"from": "human", "value": "<image>\n Name it"},
                                                            {"from": "gpt", "value": "A bus"}]}]
    save(SET / "llava_dataset/talk.json", talk)
    reason = SET / "reason_seg/ReasonSeg"
    shapes = [{"label": "target", "points": [[2, 3], [30.7, 4.2], [25, 20]]},
              {"label": "Ignore region", "points": [[10, 8], [16, 8], [16, 12], [10, 12]]},
              {"label": "target", "points": [[28, 20], [38, 20], [38, 28]]}, {"label": "FLAG", "points": [[0, 0], [3, 3], [0, 3]]}]
    for n, (text, sentence) in enumerate(((["what is THAT", "the thing", "another name", "a fourth"], False),
                                          (["Where would one sit?"], True), (["Which one is red?", "Red?"], True),
                                          (["the Plate"], False))):
        photo(reason / f"train/t{n}.jpg", 160 + n)
        save(reason / f"train/t{n}.json", {"text": text, "is_sentence": sentence, "shapes": shapes[:n + 1]})
    save(reason / "explanatory/train.json", [{"image": "t2.jpg", "query": "q", "outputs": "It is red, as apples are."},
                                             {"image": "t3.jpg", "query": "q", "outputs": "A plate is flat."}])


# --- the reference ----------------------------------------------------------------------------------------------------

def module(name, **attributes):
    made = types.ModuleType(name)
    made.__dict__.update(attributes)
    sys.modules[name] = made
    return made


def import_reference(root):
    """LISA's data set modules, without the packages that only its other parts need."""
    for name in ("matplotlib", "matplotlib.pyplot", "matplotlib.collections", "matplotlib.patches", "skimage", "skimage.io"):
        module(name, PatchCollection=None, Polygon=None, Rectangle=None)
    sys.modules["skimage"].io = sys.modules["skimage.io"]
    module("torchvision")
    module("torchvision.transforms")
    module("torchvision.transforms.functional", to_pil_image=Image.fromarray,
           resize=lambda image, size: image.resize(size[::-1], Image.BILINEAR))
    for name in ("model", "model.llava", "model.segment_anything", "model.segment_anything.utils"):
        module(name)
    for name, path in (("model.llava.conversation", "model/llava/conversation.py"),
                       ("model.segment_anything.utils.transforms", "model/segment_anything/utils/transforms.py")):
        made = module(name)
        exec(compile((root / path).read_text(), path, "exec"), made.__dict__)
    sys.modules["model.llava"].conversation = sys.modules["model.llava.conversation"]
    sys.modules["model.llava.conversation"].default_conversation = (
        sys.modules["model.llava.conversation"].conv_templates["llava_v1"])
    sys.path.insert(0, str(root))
    from utils.reason_seg_dataset import ReasonSegDataset
    from utils.refer_seg_dataset import ReferSegDataset
    from utils.sem_seg_dataset import SemSegDataset
    from utils.vqa_dataset import VQADataset
    return SemSegDataset, ReferSegDataset, VQADataset, ReasonSegDataset


class Noted:
    """Stands for the random functions while one sample is made: the first whole numbers are given, the rest drawn."""

    def __init__(self, seed, given):
        self.random, self.given, self.events = random.Random(seed), list(given), []

    def randint(self, low, high):
        if self.given:
            return self.given.pop(0)
        value = self.random.randint(low, high)
        self.events.append(("randint", value))
        return value

    def choice(self, options):
        index = self.random.randrange(len(options))
        self.events.append(("choice", index))
        return options[index]

    def uniform(self):
        value = self.random.random()
        self.events.append(("uniform", value))
        return value

    def several(self, options, size, replace):
        assert not replace
        picked = self.random.sample(range(len(options)), size)
        pool, places = list(range(len(options))), []
        for index in picked:
            places.append(pool.index(index))
            pool.remove(index)
        self.events.append(("several", places))
        out = np.empty(size, object)
        out[:] = [options[i] for i in picked]
        return out

    def __enter__(self):
        self.kept = random.randint, random.choice, random.random, np.random.choice
        random.randint, random.choice, random.random, np.random.choice = self.randint, self.choice, self.uniform, self.several
        return self

    def __exit__(self, *_):
        random.randint, random.choice, random.random, np.random.choice = self.kept

    def take(self, kind):
        values = [value for k, value in self.events if k == kind]
        return values[0] if kind == "several" and values else [] if kind == "several" else values


def label_map_choices(noted, count):
    return noted.take("several") + noted.take("choice")


def part_choices(noted, count):
    words = [int(value < 0.5) for value in noted.take("uniform")]
    phrases, choices = noted.take("choice"), list(noted.take("several"))
    named = words if len(words) == count else None
    for i in range(count):
        choices += ([named[i]] if named else []) + phrases[2 * i:2 * i + 2]
    return choices


def reason_choices(noted, count, explanatory, explained):
    choices, phrases = list(noted.take("several")), noted.take("choice")
    kind = None
    if explained:
        alone = noted.take("uniform")[0] < explanatory
        choices.append(int(alone))
        if not alone:
            kind = noted.take("randint")[0]
            choices.append(kind)
        else:
            kind = 2
    each = {None: 2, 0: 2, 1: 3, 2: 1}[kind]  # what the reference draws for a sentence
    for i in range(count):
        drawn = phrases[each * i:each * (i + 1)]
        choices += drawn if kind in (None, 0) else drawn[1:]  # the question's own form is thrown away with an explanation
    return choices


def run_length(plane):
    # The reference adds overlapping polygons up; ours has 0 and 1.
    return coco_mask.encode(np.asfortranarray((np.asarray(plane) > 0).astype(np.uint8)))["counts"].decode()


def golden(family, name, item, image, choices):
    return {"family": family, "set": name, "image": str(pathlib.Path(image).relative_to(SET)), "choices": choices,
            "conversations": list(item[3]), "masks": [run_length(m) for m in item[4]]}


def samples(root, tower):
    sem_seg, refer_seg, vqa, reason_seg = import_reference(root)
    base = str(SET)
    cases = []
    for name, count in (("ade20k", 3), ("cocostuff", 2), ("mapillary", 1), ("pascal_part", 2), ("paco_lvis", 2)):
        data = sem_seg(base, None, tower, sem_seg_data=name)
        for index in range(count):
            for seed in range(3):
                with Noted(seed, [0, index]) as noted:
                    item = data[0]
                rule = part_choices if name in ("pascal_part", "paco_lvis") else label_map_choices
                choices = rule(noted, len(item[3]))
                if name == "paco_lvis":
                    choices = paco_choices(noted, item)
                cases.append(golden("sem_seg", name, item, item[0], choices))
    for name in ("refcoco", "refcocog"):
        data = refer_seg(base, None, tower, refer_seg_data=name)
        for index in range(2):
            for seed in range(3):
                with Noted(seed, [0, index]) as noted:
                    item = data[0]
                cases.append(golden("refer_seg", name, item, item[0], label_map_choices(noted, len(item[3]))))
    for index in range(2):
        data = vqa(base, None, tower, vqa_data="talk")
        with Noted(0, [index]) as noted:
            item = data[0]
        cases.append(golden("vqa", "talk", item, item[0], []))
    for explanatory in (0.5, -1):
        data = reason_seg(base, None, tower, reason_seg_data="ReasonSeg|train", explanatory=explanatory)
        for index, image in enumerate(data.reason_seg_data[0]):
            explained = explanatory != -1 and pathlib.Path(image).name in data.img_to_explanation
            for seed in range(6 if explained else 2):
                with Noted(seed, [index]) as noted:
                    item = data[0]
                one = golden("reason_seg", "ReasonSeg|train", item, image,
                             reason_choices(noted, len(item[3]), explanatory, explained))
                cases.append(dict(one, explanatory=explanatory))
    return cases


def paco_choices(noted, item):
    """A name without a part draws no word order: which ones did is told by what was asked."""
    words, phrases = [int(v < 0.5) for v in noted.take("uniform")], noted.take("choice")
    choices = list(noted.take("several"))
    for i, question in enumerate(item[7]):
        if "handle" in question:
            choices.append(words.pop(0))
        choices += phrases[2 * i:2 * i + 2]
    assert not words
    return choices


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--lisa", required=True)
    root = pathlib.Path(parser.parse_args().lisa)
    make_set()
    os.chdir(root)  # the reference opens its class lists from there
    import transformers
    with tempfile.TemporaryDirectory() as tower:
        transformers.CLIPImageProcessor().save_pretrained(tower)
        cases = samples(root, tower)
    text = json.dumps({"template": "llava_v1", "cases": cases}, separators=(",", ":")).replace(',{"family"', ',\n{"family"')
    (HERE / "data/lisa_dataset.json").write_text(text + "\n")
    print(len(cases), "cases,", len(text) // 1024, "KiB; data set",
          sum(p.stat().st_size for p in SET.rglob("*") if p.is_file()) // 1024, "KiB")


if __name__ == "__main__":
    main()
