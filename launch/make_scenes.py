#!/usr/bin/env python3
"""Compose the quickstart's scenes from the photographs and masks in datasets/sample.

An object is cut out of a photograph along its COCO polygon, turned, scaled, and pasted on a crop of another
photograph. A scene holds two objects of different classes, so a question has to be understood to be answered.
The result is a data folder (--dataset_dir) in the layouts of LISA's own sources:

    OUT/coco/train2017/scene_00000.jpg        COCO-Stuff, train_names' scenes: the picture and its label map. All
    OUT/cocostuff/train2017/scene_00000.png   objects of a picture are asked for at once, by name
    OUT/reason_seg/ReasonSeg/<split>/scene_00000_dog.jpg     ReasonSeg: one copy for each question asked about it
    OUT/reason_seg/ReasonSeg/<split>/scene_00000_dog.json    text, is_sentence, shapes

    train_names, val_names         the question names the object ("dog")
    train_describe, val_describe   the question describes it without its name ("Which animal barks?")

The val splits use other compositions and other background photographs than training; bananas are other cut-outs too.
The remaining classes have one good cut-out, which both sides share.
A target is the visible part of an object. Its polygons run through the centres of the mask's border pixels, so
outline plus fill (how ReasonSeg is rasterised) gives back the mask exactly; every one is checked before it is written.

Same seed and same Pillow, same bytes. Needs numpy and Pillow only.
"""
import argparse
import json
import math
import random
import shutil
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance

# class: (annotation ids to train on, annotation ids held out). Equal lists: too few good ones to hold any out.
# The classes differ in colour and outline; that keeps the quickstart's training short.
OBJECTS = {
    "banana": ([1543037, 1545539, 1546568, 1546710, 1547931, 1043946], [1904361, 1043443]),
    "dog": ([12032], [12032]),
    "bus": ([165509], [165509]),
    "fire hydrant": ([417096], [417096]),
}

BACKGROUNDS = {
    "train": [10073, 10125, 10309, 10324, 10442, 13004, 13291, 15272, 15746, 17029, 397133],
    "val": [10114, 10440, 10313, 14439, 403385, 12667],
}

SCALE = (0.36, 0.46)  # side of a square with an object's area, as a part of the scene's side
VISIBLE = 0.7  # least visible part of an object

# No description contains its object's name.
DESCRIPTIONS = {
    "banana": ["Which yellow fruit can be peeled?", "What would a monkey eat?", "Which fruit grows in bunches?",
               "What is sweet and has a yellow skin?"],
    "dog": ["Which animal barks?", "Which pet has fur and a tail?", "What would chase a cat?",
            "Which animal is a good friend of man?"],
    "bus": ["What carries many passengers?", "Which vehicle drives on the road?", "What stops for travellers in the city?",
            "What has wheels and a driver?"],
    "fire hydrant": ["Where do you get water against flames?", "What is red and stands on the sidewalk?",
                     "What would a hose be joined to?", "Where must you not park your car?"],
}


class Sample:
    """The photographs and annotations of datasets/sample."""

    def __init__(self, root: Path):
        self.photos = root / "coco" / "train2017"
        data = json.loads((root / "coco" / "annotations" / "instances_train2017.json").read_text())
        self.annotations = {a["id"]: a for a in data["annotations"]}
        names = {c["id"]: c["name"] for c in data["categories"]}
        self.number = {name: number for number, name in names.items()}
        self.occupied = {}  # photograph -> boxes of anything that a question could mean
        for a in data["annotations"]:
            if names[a["category_id"]] in OBJECTS:
                self.occupied.setdefault(a["image_id"], []).append(a["bbox"])

    @cache
    def photo(self, number: int) -> Image.Image:
        return Image.open(self.photos / f"{number:012d}.jpg").convert("RGB")

    def cutout(self, annotation: int, limit: int) -> Image.Image:
        """One object as RGBA, cropped to its box, no side above `limit`; alpha is its polygon."""
        a = self.annotations[annotation]
        picture = self.photo(a["image_id"]).copy()
        alpha = Image.new("L", picture.size)
        for polygon in a["segmentation"]:
            ImageDraw.Draw(alpha).polygon(list(zip(polygon[0::2], polygon[1::2])), fill=255)
        picture.putalpha(alpha)
        cutout = picture.crop(alpha.getbbox())
        cutout.thumbnail((limit, limit), Image.Resampling.LANCZOS)
        return cutout


def resize_cutout(cutout: Image.Image, rng: random.Random, size: int, scale: tuple) -> Image.Image:
    """A turned, mirrored, brightened copy whose area is that of a square with a side of `scale` times the scene."""
    if rng.random() < 0.5:
        cutout = cutout.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    cutout = cutout.rotate(rng.uniform(-12, 12), Image.Resampling.BICUBIC, expand=True)
    area = np.count_nonzero(np.asarray(cutout.getchannel("A")) > 127)
    side = size * rng.uniform(*scale)
    factor = side / math.sqrt(area)
    factor = min(factor, 0.8 * size / max(cutout.size))
    shape = tuple(max(1, round(n * factor)) for n in cutout.size)
    cutout = cutout.resize(shape, Image.Resampling.LANCZOS)
    alpha = cutout.getchannel("A")
    cutout = ImageEnhance.Brightness(cutout.convert("RGB")).enhance(rng.uniform(0.8, 1.2))
    cutout.putalpha(alpha)
    return cutout


def background(sample: Sample, rng: random.Random, numbers: list, size: int) -> Image.Image:
    """A square crop of a photograph which shows none of the classes."""
    for attempt in range(1000):
        number = rng.choice(numbers)
        picture = sample.photo(number)
        side = rng.randint(size, min(picture.size))
        side = max(size, int(side * 0.99**attempt))
        x, y = (rng.randint(0, n - side) for n in picture.size)
        boxes = sample.occupied.get(number, [])
        if not any(bx < x + side and bx + bw > x and by < y + side and by + bh > y for bx, by, bw, bh in boxes):
            box = (x, y, x + side, y + side)
            return picture.resize((size, size), Image.Resampling.LANCZOS, box=box)
    raise RuntimeError("no empty background found")


def components(mask: np.ndarray, diagonal: bool) -> list:
    """Connected parts of a mask, each as a mask."""
    left = mask.copy()
    parts = []
    while left.any():
        part = np.zeros_like(mask)
        part.flat[np.argmax(left)] = True
        size = 0
        while size != (size := np.count_nonzero(part)):  # grow by one pixel until nothing is added
            rows = part.copy()
            rows[1:] |= part[:-1]
            rows[:-1] |= part[1:]
            grown = rows.copy()
            across = rows if diagonal else part
            grown[:, 1:] |= across[:, :-1]
            grown[:, :-1] |= across[:, 1:]
            part = grown & left
        left &= ~part
        parts.append(part)
    return parts


def has_hole(mask: np.ndarray) -> bool:
    ys, xs = np.nonzero(mask)
    box = mask[ys.min():ys.max() + 1, xs.min():xs.max() + 1]
    return len(components(~np.pad(box, 1), diagonal=False)) > 1


def border(part: np.ndarray) -> list:
    """Closed walk over the border pixels of one 8-connected part without holes (Moore neighbours), corners only."""
    ring = [(-1, 0), (-1, -1), (0, -1), (1, -1), (1, 0), (1, 1), (0, 1), (-1, 1)]  # dx, dy

    def inside(x, y):
        return 0 <= y < part.shape[0] and 0 <= x < part.shape[1] and part[y, x]

    ys, xs = np.nonzero(part)
    start = (int(xs[0]), int(ys[0]))  # topmost row, leftmost pixel: its left neighbour is outside
    walk, here, came = [start], start, 0
    first = None
    while True:
        for turn in range(1, 9):
            d = (came + turn) % 8
            there = (here[0] + ring[d][0], here[1] + ring[d][1])
            if inside(*there):
                break
        else:
            return [start]  # a lone pixel
        if first is None:
            first = (here, d)
        elif (here, d) == first:
            break
        # the last outside neighbour seen, as a direction from the new pixel
        back = (here[0] + ring[(d - 1) % 8][0] - there[0], here[1] + ring[(d - 1) % 8][1] - there[1])
        walk.append(there)
        here, came = there, ring.index(back)
    walk.pop()  # back at the start
    corners = []
    for i, p in enumerate(walk):
        a, b = walk[i - 1], walk[(i + 1) % len(walk)]
        if (p[0] - a[0], p[1] - a[1]) != (b[0] - p[0], b[1] - p[1]):
            corners.append(p)
    return corners


def polygons(mask: np.ndarray) -> list:
    """Polygons whose outline plus fill is exactly the mask."""
    found = [border(part) for part in components(mask, diagonal=True)]
    again = Image.new("1", mask.shape[::-1])
    for points in found:
        draw = ImageDraw.Draw(again)
        draw.polygon(points, fill=1, outline=1) if len(points) > 1 else draw.point(points, fill=1)
    if not np.array_equal(np.asarray(again), mask):
        raise RuntimeError("a polygon does not give back its mask")
    return found


def askable(mask: np.ndarray) -> bool:
    """Whether polygons can say the mask: no holes, and no part so thin that it has fewer than three corners."""
    return not has_hole(mask) and all(len(points) >= 3 for points in polygons(mask))


def compose(sample: Sample, cutouts: dict, rng: random.Random, numbers: list, size: int):
    """One scene: the picture and each object's visible mask. Tried again until each is seen and askable."""
    while True:
        scene = background(sample, rng, numbers, size)
        names = rng.sample(list(cutouts), 2)
        masks = {}
        whole = {}
        for name in names:
            cutout = resize_cutout(rng.choice(cutouts[name]), rng, size, SCALE)
            x, y = (rng.randint(-n // 5, size - n + n // 5) for n in cutout.size)  # may leave the picture a little
            layer = Image.new("RGBA", (size, size))
            layer.paste(cutout, (x, y))
            placed = np.asarray(layer.getchannel("A")) > 127  # hard edge: each pixel belongs to one photograph
            scene.paste(layer.convert("RGB"), mask=Image.fromarray(placed))
            for other in masks.values():
                other &= ~placed
            masks[name] = placed
            whole[name] = np.count_nonzero(np.asarray(cutout.getchannel("A")) > 127)
        if all(np.count_nonzero(masks[n]) >= VISIBLE * whole[n] and askable(masks[n]) for n in names):
            return scene, masks


def cutouts_of(sample: Sample, side: str, size: int) -> dict:
    """Class -> its cut-outs on one side, "train" or "val"."""
    return {name: [sample.cutout(i, size) for i in ids[side == "val"]] for name, ids in OBJECTS.items()}


def fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def write_label_map(out: Path, stem: str, scene: Image.Image, masks: dict, numbers: dict) -> None:
    """A scene in COCO-Stuff's layout; `numbers`: class -> COCO's category."""
    label_map = np.full(scene.size[::-1], 255, np.uint8)  # 255: no class
    for name, mask in masks.items():
        label_map[mask] = numbers[name] - 1  # COCO-Stuff's label maps count COCO's categories from 0
    scene.save(out / "coco" / "train2017" / f"{stem}.jpg", quality=92)
    Image.fromarray(label_map).save(out / "cocostuff" / "train2017" / f"{stem}.png")


def write_scenes(sample: Sample, out: Path, count: int, rng: random.Random, side: str, kinds: dict, size: int) -> int:
    """`kinds`: split name -> "names" or "describe"; all of them show the same scenes. Returns the number of questions."""
    folders = {split: fresh(out / "reason_seg" / "ReasonSeg" / split) for split in kinds}
    cutouts = cutouts_of(sample, side, size)
    describes = "describe" in kinds.values()
    written = 0
    for number in range(count):
        scene, masks = compose(sample, cutouts, rng, BACKGROUNDS[side], size)
        if "train_names" in kinds:
            write_label_map(out, f"scene_{number:05d}", scene, masks, sample.number)
        for name, mask in masks.items():
            shapes = [{"label": "target", "points": [list(p) for p in points]} for points in polygons(mask)]
            texts = rng.sample(DESCRIPTIONS[name], len(DESCRIPTIONS[name])) if describes else []
            for split, kind in kinds.items():
                stem = folders[split] / f"scene_{number:05d}_{name.replace(' ', '_')}"
                scene.save(stem.with_suffix(".jpg"), quality=92)
                sentence = kind == "describe"
                about = {"text": texts if sentence else [name], "is_sentence": sentence, "shapes": shapes}
                stem.with_suffix(".json").write_text(json.dumps(about))
                written += 1
    return written


def main() -> None:
    here = Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--sample", type=Path, default=here.parent / "datasets" / "sample", help="photographs and masks")
    parser.add_argument("--out", type=Path, required=True, help="folder to write (the trainer's --dataset_dir)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--size", type=int, default=64, help="side of a scene in pixels")
    parser.add_argument("--train", type=int, default=1000, help="scenes whose questions name a class")
    parser.add_argument("--train_describe", type=int, default=300, help="scenes of train_describe")
    parser.add_argument("--val", type=int, default=80, help="scenes of both val splits")
    args = parser.parse_args()
    sample = Sample(args.sample)
    for folder in ("coco", "cocostuff"):
        fresh(args.out / folder / "train2017")
    splits = [(args.train, "train", {"train_names": "names"}), (args.train_describe, "train", {"train_describe": "describe"}),
              (args.val, "val", {"val_names": "names", "val_describe": "describe"})]
    for number, (count, side, kinds) in enumerate(splits):
        rng = random.Random(f"{args.seed}/{number}")
        written = write_scenes(sample, args.out, count, rng, side, kinds, args.size)
        print(f"{count} scenes, {written} questions in {', '.join(kinds)}")


if __name__ == "__main__":
    main()
