"""Writes data/*.json: what the public packages make of images, sizes, polygons and masks.

pip install pillow==12.0.0 numpy==1.26.4 opencv-python-headless==4.8.0.76 pycocotools==2.0.11 transformers==4.40.2
Run it in this folder, after images.py. Pixels are recorded by their CRC-32, and synthetic pictures by the seed of a
generator that the tests have as well (noise()).
"""
import json
import math
import os
import warnings
import zlib

import cv2
import numpy as np
from PIL import Image, ImageEnhance, ImageOps
from pycocotools import mask as coco
from transformers import CLIPImageProcessor, LlavaNextImageProcessor
from transformers.image_processing_utils import select_best_resolution

FOLDER = "data/images/"
rng = np.random.default_rng(20240)
warnings.simplefilter("ignore")


def noise(height, width, seed, channels=3):
    """Numerical Recipes' linear congruential generator, top byte of each state."""
    state, values = seed, bytearray()
    for _ in range(height * width * channels):
        state = (state * 1664525 + 1013904223) & 0xFFFFFFFF
        values.append(state >> 24)
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.frombuffer(bytes(values), np.uint8).reshape(shape)


def crc(array):
    return zlib.crc32(np.ascontiguousarray(array).tobytes())


def write(name, value):
    with open(f"data/{name}.json", "w") as file:
        if isinstance(value, list):
            file.write("[\n" + ",\n".join(json.dumps(v) for v in value) + "\n]\n")
        else:
            file.write(json.dumps(value) + "\n")


def decoded():
    """Files that Pillow reads, and their labels where numpy.array(Image.open(f)) has one 8-bit plane."""
    cases = []
    for name in sorted(os.listdir(FOLDER)):
        path = FOLDER + name
        case = {"file": name}
        try:
            image = Image.open(path)
            rgb = np.array(image.convert("RGB"))
            turned = np.array(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
            case |= {"height": rgb.shape[0], "width": rgb.shape[1], "rgb": crc(rgb), "format": image.format}
            case["orientation"] = Image.open(path).getexif().get(0x0112, 1) or 1
            case["turned"] = crc(turned)
            plane = np.array(Image.open(path))
            if image.format == "PNG" and plane.ndim == 2 and plane.dtype in (np.uint8, np.bool_):
                case["labels"] = crc(plane.astype(np.uint8))
        except Exception as error:  # noqa: BLE001 - Pillow raises half a dozen kinds
            case["refused"] = type(error).__name__
        cases.append(case)
    write("decode", cases)


def resized():
    cases = []
    sizes = [(1, 1, 7, 5), (5, 1, 2, 9), (37, 53, 20, 31), (53, 37, 91, 64), (60, 45, 60, 13), (33, 70, 8, 70), (3, 400, 2, 51),
             (64, 48, 37, 28), (17, 19, 51, 57), (100, 3, 11, 1)]
    for seed, (h, w, oh, ow) in enumerate(sizes, 1):
        image = noise(h, w, seed)
        for resample in range(6):
            out = np.array(Image.fromarray(image).resize((ow, oh), resample))
            cases.append({"seed": seed, "from": [h, w], "to": [oh, ow], "filter": resample, "rgb": crc(out),
                          "first": out.reshape(-1)[:6].tolist()})
    write("resize", cases)


def anyres(image, size, grid):
    """LLaVA's tiles: the squeezed whole, then the grid row by row; whether both borders are even."""
    height, width = image.shape[:2]
    best_height, best_width = select_best_resolution((height, width), [(b, a) for a, b in grid])
    if best_width / width < best_height / height:
        inner = (best_width, min(math.ceil(height * (best_width / width)), best_height))
    else:
        inner = (min(math.ceil(width * (best_height / height)), best_width), best_height)
    canvas = Image.new("RGB", (best_width, best_height))
    whole = Image.fromarray(image)
    left, top = best_width - inner[0], best_height - inner[1]
    canvas.paste(whole.resize(inner, Image.Resampling.BICUBIC), (left // 2, top // 2))
    tiles = [canvas.crop((x, y, x + size, y + size)) for y in range(0, best_height, size) for x in range(0, best_width, size)]
    return [np.array(v) for v in [whole.resize((size, size), Image.Resampling.BICUBIC), *tiles]], left % 2 == 0 and top % 2 == 0


def enhanced():
    cases = []
    for kind in ("Brightness", "Contrast", "Color"):
        for i, factor in enumerate((0.0, 0.37, 0.8, 1.0, 1.25, 2.6)):
            image = Image.fromarray(noise(11 + i, 17, 500 + i))
            out = np.array(getattr(ImageEnhance, kind)(image).enhance(factor))
            cases.append({"kind": kind, "seed": 500 + i, "size": [11 + i, 17], "factor": factor, "rgb": crc(out)})
    write("enhance", cases)


def preprocessed():
    """Pixel values as the packages hand them to the model: CRC-32 of the float32 bytes, and a few to look at."""
    cases = []
    sizes = [(60, 45, 28), (45, 61, 28), (33, 33, 14), (20, 90, 30), (9, 13, 21), (120, 50, 56)]
    pinpoints = {size: [[size, 2 * size], [2 * size, size], [2 * size, 2 * size], [3 * size, size]] for size in (14, 21, 28, 30, 56)}

    def record(kind, seed, image, size, pixels, **more):
        pixels = np.ascontiguousarray(pixels, np.float32)
        cases.append({"kind": kind, "seed": seed, "from": list(image.shape[:2]), "size": size, "shape": list(pixels.shape),
                      "values": crc(pixels), "first": [float(v) for v in pixels.reshape(-1)[:4]]} | more)

    for seed, (h, w, size) in enumerate(sizes, 101):
        image = noise(h, w, seed)
        clip = CLIPImageProcessor(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
        record("square", seed, image, size, clip.preprocess(image, return_tensors="np")["pixel_values"])
        background = [int(m * 255) for m in clip.image_mean]
        side = max(h, w)
        square = np.empty((side, side, 3), np.uint8)
        square[:] = background
        square[(side - h) // 2 : (side - h) // 2 + h, (side - w) // 2 : (side - w) // 2 + w] = image
        record("pad", seed, image, size, clip.preprocess(square, return_tensors="np")["pixel_values"])
        grid = pinpoints[size]
        views, plain = anyres(image, size, grid)
        pixels = np.concatenate([clip.preprocess(v, return_tensors="np")["pixel_values"] for v in views])
        if plain:  # transformers' own port loses a row where the border is odd
            next_processor = LlavaNextImageProcessor(size={"shortest_edge": size}, crop_size={"height": size, "width": size},
                                                     image_grid_pinpoints=[[b, a] for a, b in grid])
            assert (next_processor.preprocess(image, return_tensors="np")["pixel_values"][0] == pixels).all()
        record("anyres", seed, image, size, pixels, pinpoints=grid)
        longest = size * 2 + 3
        scale = longest * 1.0 / max(h, w)
        small = np.array(Image.fromarray(image).resize((int(w * scale + 0.5), int(h * scale + 0.5)), Image.Resampling.BILINEAR))
        mean, std = np.float32([123.675, 116.28, 103.53]), np.float32([58.395, 57.12, 57.375])
        planes = np.zeros((1, 3, longest, longest), np.float32)
        planes[0, :, : small.shape[0], : small.shape[1]] = ((small.astype(np.float32) - mean) / std).transpose(2, 0, 1)
        record("sam", seed, image, longest, planes, resized=list(small.shape[:2]))
    odd = noise(31, 44, 200)
    smaller = CLIPImageProcessor(size={"shortest_edge": 15}, crop_size={"height": 21, "width": 19})
    record("crop_beyond", 200, odd, 15, smaller.preprocess(odd, return_tensors="np")["pixel_values"])
    unit = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}, image_mean=[0, 0, 0], image_std=[1, 1, 1])
    record("unit", 200, odd, 16, unit.preprocess(odd, return_tensors="np")["pixel_values"])
    write("preprocess", cases)


def drawn():
    """cv2.polylines and cv2.fillPoly, after truncation to int32 as LISA does it."""
    cases = []

    def record(height, width, points, why):
        mask = np.zeros((height, width), np.uint8)
        corners = np.array([points], dtype=np.int32)
        cv2.polylines(mask, corners, True, 1, 1)
        cv2.fillPoly(mask, corners, 1)
        counts = coco.encode(np.asfortranarray(mask))["counts"].decode()
        cases.append({"why": why, "size": [height, width], "points": points, "counts": counts})

    record(9, 12, [[3.9, 4.9]], "one point is a dot")
    record(9, 12, [[1, 7], [10, 2]], "two points are a line")
    record(9, 12, [[4, 4], [4, 4], [4, 4]], "three equal points")
    record(9, 12, [[2, 3], [9, 3], [5, 3]], "flat")
    record(9, 12, [[5, 1], [5, 8], [5, 4]], "upright line")
    record(9, 12, [[-5, -5], [30, -5], [30, 30], [-5, 30]], "around the image")
    record(9, 12, [[20, 20], [30, 20], [25, 29]], "outside")
    record(9, 12, [[-0.9, 2.9], [-0.2, 6.5], [5.99, 4.01]], "truncation towards zero")
    record(20, 20, [[2, 2], [17, 17], [17, 2], [2, 17]], "bow tie")
    record(20, 20, [[10, 0], [16, 19], [0, 7], [19, 7], [3, 19]], "star")
    record(20, 20, [[2, 2], [17, 2], [17, 17], [2, 17], [2, 2], [6, 6], [13, 6], [13, 13], [6, 13], [6, 6]], "hole by even and odd")
    for i in range(60):
        height, width = (int(v) for v in rng.integers(1, 50, 2))
        low, high = [(0, 1), (-0.5, 1.5), (-3, 4), (-200, 200)][i % 4]
        points = np.round(rng.uniform(low, high, (int(rng.integers(3, 11)), 2)) * [width, height], 2)
        record(height, width, points.tolist(), "random")
    write("polygons", cases)

    scenes = []
    for i in range(8):
        height, width = (int(v) for v in rng.integers(12, 40, 2))
        shapes = []
        for k in range(int(rng.integers(1, 6))):
            centre, reach = rng.uniform(0, 1, 2), rng.uniform(0.1, 0.6)
            points = np.round((centre + rng.uniform(-reach, reach, (int(rng.integers(3, 7)), 2))) * [width, height], 1)
            shapes.append({"label": ["target", "Ignore_this", "FLAG", "target 2", "target"][k], "points": points.tolist()})
        label = np.zeros((height, width), np.uint8)
        kept = [s for s in shapes if s["label"].lower() != "flag"]
        areas = []
        for shape in kept:
            alone = np.zeros((height, width), np.uint8)
            corners = np.array([shape["points"]], dtype=np.int32)
            cv2.polylines(alone, corners, True, 1, 1)
            cv2.fillPoly(alone, corners, 1)
            areas.append(alone.sum())
        for index in np.argsort(areas)[::-1]:
            value = 255 if "ignore" in kept[index]["label"].lower() else 1
            corners = np.array([kept[index]["points"]], dtype=np.int32)
            cv2.polylines(label, corners, True, value, 1)
            cv2.fillPoly(label, corners, value)
        scenes.append({"size": [height, width], "shapes": shapes, "label": crc(label)})
    write("shapes", scenes)


def run_lengths():
    cases = []

    def record(rle, **more):
        box = [int(v) for v in coco.toBbox(rle)]
        cases.append({"size": [int(v) for v in rle["size"]], "counts": rle["counts"].decode(), "area": int(coco.area(rle)), "bounds": box} | more)

    for i in range(40):
        height, width = [(37, 53), (64, 64), (5, 90), (1, 1), (40, 1)][i % 5]
        low, high = [(0, 1), (-0.5, 1.5), (0.2, 0.6)][i % 3]
        polygons = [np.round(rng.uniform(low, high, (int(rng.integers(3, 12)), 2)) * [width, height], int(i % 4)).reshape(-1).tolist()
                    for _ in range(1 + i % 3)]
        record(coco.merge(coco.frPyObjects(polygons, height, width)), polygons=polygons)
    repeated = [[4.0, 4.0, 4.0, 4.0, 12.0, 4.0, 12.0, 9.5, 12.0, 9.5, 4.0, 9.5]]
    record(coco.merge(coco.frPyObjects(repeated, 16, 20)), polygons=repeated)
    for seed in range(301, 307):
        height, width = [(7, 11), (1, 40), (40, 1), (33, 29), (2, 2), (300, 400)][seed - 301]
        mask = (noise(height, width, seed, 1) > 127 + (seed - 301) * 25).astype(np.uint8)
        record(coco.encode(np.asfortranarray(mask)), seed=seed, above=127 + (seed - 301) * 25)
    for value in (0, 1):
        record(coco.encode(np.full((6, 4), value, np.uint8, order="F")), full=value)
    merges = []
    for i in range(0, 12):
        parts = [coco.encode(np.asfortranarray((noise(19, 23, 400 + 3 * i + k, 1) > 180).astype(np.uint8))) for k in range(1 + i % 3)]
        merges.append({"size": [19, 23], "parts": [p["counts"].decode() for p in parts],
                       "union": coco.merge(parts)["counts"].decode(), "common": coco.merge(parts, True)["counts"].decode()})
    write("rle", cases)
    write("rle_merge", merges)


if __name__ == "__main__":
    decoded()
    resized()
    enhanced()
    preprocessed()
    drawn()
    run_lengths()
