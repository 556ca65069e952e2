#!/usr/bin/env python3
"""Writes a shard with h5py alone, as datasets/FORMAT.md tells people to: write_shard_h5py.py REFERENCE.h5 OUT.h5

The texts and ids are copied from a shard that `tessera prepare` wrote, so that the tokenizer's hash fits; everything
optional is left out, and the storage is compressed and chunked as h5py likes it.
"""
import sys

import h5py
import numpy as np


def ragged(file, name, rows, dtype):
    file.create_dataset(name + "/values", data=np.concatenate([np.empty(0, dtype)] + [np.asarray(row, dtype) for row in rows]),
                        compression="gzip", chunks=True, maxshape=(None,))
    file[name + "/offsets"] = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype("<i8")


def text(file, name, rows):
    ragged(file, name, [np.frombuffer(row.encode(), "u1") for row in rows], "u1")


def rows_of(file, name):
    values, offsets = file[name + "/values"][:], file[name + "/offsets"][:]
    return [values[offsets[i]:offsets[i + 1]] for i in range(len(offsets) - 1)]


def main():
    with h5py.File(sys.argv[1], "r") as old, h5py.File(sys.argv[2], "w") as f:
        for name in ("format", "format_major", "format_minor", "split", "tokenizer_hash", "template", "seg_token_id",
                     "im_start_id", "im_end_id", "pad_id", "bos_id", "eos_id", "image_token_id", "ignore_label",
                     "use_mm_start_end"):
            f.attrs[name] = old.attrs[name]
        ragged(f, "images/bytes", rows_of(old, "images/bytes"), "u1")
        text(f, "images/name", [row.tobytes().decode() for row in rows_of(old, "images/name")])
        for name in ("images/height", "images/width", "samples/image", "masks/height", "masks/width"):
            f[name] = old[name][:].astype("<i4")
        text(f, "sources/name", ["my data"])
        text(f, "sources/family", ["my_family"])
        f["samples/source"] = np.zeros(len(f["samples/image"]), "<i4")
        for name in ("samples/conversation_offsets", "samples/target_offsets", "targets/mask"):
            f[name] = old[name][:].astype("<i8")
        ragged(f, "conversations/ids", rows_of(old, "conversations/ids"), "<i4")
        ragged(f, "conversations/labels", rows_of(old, "conversations/labels"), "<i4")
        ragged(f, "masks/counts", rows_of(old, "masks/counts"), "u1")
        f["something/new"] = np.arange(3)  # a dataset of a later minor version


if __name__ == "__main__":
    main()
