"""Beside build/bench_image: the same work with Pillow and NumPy, one core.  python tests/bench/image_pillow.py FILE.jpg …"""
import io
import sys
import time

import numpy as np
import PIL
from PIL import Image

MEAN, STD = np.float32([123.675, 116.28, 103.53]), np.float32([58.395, 57.12, 57.375])
CLIP_MEAN = np.float32([0.48145466, 0.4578275, 0.40821073])
CLIP_STD = np.float32([0.26862954, 0.26130258, 0.27577711])


def decode(data):
    return np.array(Image.open(io.BytesIO(data)).convert("RGB"))


def sam_resize(image):
    height, width = image.shape[:2]
    scale = 1024 / max(height, width)
    return np.array(Image.fromarray(image).resize((int(width * scale + 0.5), int(height * scale + 0.5)), Image.Resampling.BILINEAR))


def sam(image):
    small = sam_resize(image)
    planes = np.zeros((3, 1024, 1024), np.float32)
    planes[:, : small.shape[0], : small.shape[1]] = ((small.astype(np.float32) - MEAN) / STD).transpose(2, 0, 1)
    return planes


def clip(image):
    height, width = image.shape[:2]
    short, long = min(height, width), max(height, width)
    sides = (224, int(224 * long / short)) if width <= height else (int(224 * long / short), 224)
    small = np.array(Image.fromarray(image).resize(sides, Image.Resampling.BICUBIC))
    top, left = (small.shape[0] - 224) // 2, (small.shape[1] - 224) // 2
    small = small[top : top + 224, left : left + 224]
    return np.ascontiguousarray((((small * (1 / 255)).astype(np.float32) - CLIP_MEAN) / CLIP_STD).transpose(2, 0, 1))


def time_it(name, items, work, seconds=2):
    for item in items:
        work(item)
    done, start = 0, time.process_time()
    while time.process_time() - start < seconds:
        for item in items:
            work(item)
        done += len(items)
    passed = time.process_time() - start
    print(f"{name:<44} {done / passed:9.1f} images/s {1000 * passed / done:9.3f} ms")


def everything(data):
    image = decode(data)
    return sam(image), clip(image)


if __name__ == "__main__":
    files = [open(name, "rb").read() for name in sys.argv[1:]]
    if not files:
        sys.exit("usage: image_pillow.py FILE.jpg …")
    images = [decode(data) for data in files]
    print(f"Pillow {PIL.__version__}, NumPy {np.__version__}; {len(files)} files, the first of {images[0].shape[1]} x {images[0].shape[0]} pixels")
    time_it("decode", files, decode)
    time_it("SAM resize to 1024", images, sam_resize)
    time_it("SAM resize to 1024 and normalise", images, sam)
    time_it("CLIP resize to 224, crop, normalise", images, clip)
    time_it("all: decode, SAM 1024, CLIP 224", files, everything)
