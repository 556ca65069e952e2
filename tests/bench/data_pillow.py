"""Beside build/bench_data: training samples from the same files with Pillow and NumPy, one core.
data_pillow.py FOLDER prints samples a second of processor time: decode, SAM 1024, CLIP 224, the mask of the polygon."""
import json
import pathlib
import sys
import time

import numpy as np
from PIL import Image, ImageDraw

from image_pillow import clip, decode, sam


def mask_of(annotation, size):
    plane = Image.new("L", size)
    drawing = ImageDraw.Draw(plane)
    for shape in annotation["shapes"]:
        drawing.polygon([(int(x), int(y)) for x, y in shape["points"]], fill=1, outline=1)
    return np.asarray(plane).astype(np.float32)[None]


def sample(path):
    image = decode(path.read_bytes())
    annotation = json.loads(path.with_suffix(".json").read_text())
    return sam(image), clip(image), mask_of(annotation, image.shape[1::-1])


def main():
    paths = sorted(pathlib.Path(sys.argv[1]).glob("*.jpg"))
    pairs = [paths[i:i + 2] for i in range(0, len(paths), 2)]
    sample(paths[0])
    start = time.process_time()
    for pair in pairs:
        parts = [sample(path) for path in pair]
        np.stack([part[0] for part in parts]), np.stack([part[1] for part in parts])
    print(len(paths) / (time.process_time() - start))


if __name__ == "__main__":
    main()
