#!/usr/bin/env python3
"""Opens shards with h5py, decodes their masks with pycocotools and their images with Pillow, and compares with what this
script draws itself from the ReasonSeg files: check_shard.py DATASET_DIR SHARD.h5..."""
import io
import json
import pathlib
import sys

import h5py
import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask


def rows_of(file, name):
    values, offsets = file[name + "/values"][:], file[name + "/offsets"][:]
    assert offsets[0] == 0 and offsets[-1] == len(values), name
    return [values[offsets[i]:offsets[i + 1]] for i in range(len(offsets) - 1)]


def texts_of(file, name):
    return [row.tobytes().decode() for row in rows_of(file, name)]


def rectangle(points, shape):
    """Pixels of an upright rectangle, outline included; the only shape whose pixels need no rasteriser."""
    xs, ys = sorted({int(x) for x, _ in points}), sorted({int(y) for _, y in points})
    assert len(xs) == 2 and len(ys) == 2, points
    plane = np.zeros(shape, np.uint8)
    plane[ys[0]:ys[1] + 1, xs[0]:xs[1] + 1] = 1
    return plane


def main():
    root = pathlib.Path(sys.argv[1])
    compared = 0
    for path in sys.argv[2:]:
        with h5py.File(path, "r") as f:
            assert f.attrs["format"] == "tessera-shard" and f.attrs["format_major"] == 1
            assert len(f.attrs["tokenizer_hash"]) == 32 and f.attrs["template"] == "llava_v1"
            # No clock in the file: the same data set gives the same bytes.
            assert h5py.h5g.get_objinfo(f.id, b"images/height").mtime == 0
            names = texts_of(f, "images/name")
            images = rows_of(f, "images/bytes")
            ids, labels = rows_of(f, "conversations/ids"), rows_of(f, "conversations/labels")
            conversations, targets = f["samples/conversation_offsets"][:], f["samples/target_offsets"][:]
            counts = rows_of(f, "masks/counts")
            for sample, image in enumerate(f["samples/image"][:]):
                size = (int(f["images/height"][image]), int(f["images/width"][image]))
                with Image.open(io.BytesIO(images[image].tobytes())) as photo:
                    assert photo.size == size[::-1]
                assert images[image].tobytes() == (root / names[image]).read_bytes()
                mine = range(conversations[sample], conversations[sample + 1])
                assert sum((ids[c] == f.attrs["seg_token_id"]).sum() for c in mine) == targets[sample + 1] - targets[sample]
                for c in mine:
                    supervised = labels[c] != -100
                    assert supervised.any() and (labels[c][supervised] == ids[c][supervised]).all()
                    assert (ids[c] == -200).sum() == 1
                shapes = json.loads((root / names[image]).with_suffix(".json").read_text())["shapes"]
                if len(shapes) != 1:
                    continue
                for target in range(targets[sample], targets[sample + 1]):
                    row = f["targets/mask"][target]
                    decoded = coco_mask.decode({"size": list(size), "counts": counts[row].tobytes()})
                    assert (decoded == rectangle(shapes[0]["points"], size)).all(), names[image]
                    compared += 1
    assert compared > 0, "nothing was compared"
    print("masks compared:", compared)


if __name__ == "__main__":
    main()
