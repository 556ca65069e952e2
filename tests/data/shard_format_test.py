#!/usr/bin/env python3
"""The shard format seen from Python: h5py opens what `prepare` writes, pycocotools decodes the masks; and what h5py
writes is read and trained on here. Usage: shard_format_test.py DATA_PREPARED"""
import pathlib
import subprocess
import sys
import tempfile

here = pathlib.Path(__file__).resolve().parent


def run(*command):
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    print(result.stdout, end="")
    if result.returncode != 0:
        sys.exit(f"{command[0]} failed: {result.stderr}")
    return result.stdout


def main():
    program = sys.argv[1]
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        run(program, "make", folder)
        shards = sorted((folder / "shards").glob("*.h5"))
        assert shards
        run(sys.executable, here / "check_shard.py", folder / "data", *shards)
        run(sys.executable, here / "write_shard_h5py.py", shards[0], folder / "mine.h5")
        said = run(program, "read", folder / "mine.h5")
        assert "family my_family" in said and "masks 0" not in said, said


if __name__ == "__main__":
    main()
