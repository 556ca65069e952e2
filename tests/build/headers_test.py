"""Every public header compiles alone.

    headers_test.py COMPILER INCLUDE_DIRECTORIES...     (lists separated by semicolons)

ATen/core/Tensor.h costs seconds a file, so it is precompiled once and put in front of those headers that include it
themselves: what such a header would lack without it, it still lacks. Results are kept in the build folder by the hash of
all headers a file pulls in from this project, so a second run checks only what changed.
"""
import concurrent.futures
import hashlib
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(os.environ["TESSERA_SOURCE_DIR"])
CACHE = Path(os.environ["TESSERA_BUILD_DIR"]) / "headers_alone"
TENSOR = "ATen/core/Tensor.h"
INCLUDE = re.compile(r'^\s*#\s*include\s*[<"](tessera/[^>"]+)[>"]', re.M)


def closure(header, seen):
    """The header and the headers of ours that it includes, in a stable order."""
    if header not in seen and header.exists():
        seen.append(header)
        for target in INCLUDE.findall(header.read_text(encoding="utf-8")):
            closure(ROOT / "include" / target, seen)
    return seen


def main():
    compiler = sys.argv[1]
    directories = [d for argument in sys.argv[2:] for d in argument.split(";") if d]
    flags = ["-std=c++20", "-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Werror", "-DOMPI_SKIP_MPICXX"]
    flags += [f"-I{ROOT / 'include'}"] + [f"-isystem{d}" for d in directories]
    headers = sorted((ROOT / "include" / "tessera").rglob("*.hpp"))
    if not headers:
        sys.exit("no public header found: wrong TESSERA_SOURCE_DIR?")
    CACHE.mkdir(parents=True, exist_ok=True)

    def key(header):
        digest = hashlib.sha256("\0".join([compiler, *flags]).encode())
        for part in closure(header, []):
            digest.update(part.read_bytes())
        return CACHE / f"{header.stem}-{digest.hexdigest()[:16]}.ok"

    stale = [h for h in headers if not key(h).exists()]
    with tempfile.TemporaryDirectory() as scratch:
        tensor = Path(scratch) / "tensor.hpp"
        tensor.write_text(f"#include <{TENSOR}>\n", encoding="utf-8")

        def includes_tensor(header):
            return f"#include <{TENSOR}>" in header.read_text(encoding="utf-8")

        if any(includes_tensor(h) for h in stale):
            subprocess.run([compiler, *flags, "-x", "c++-header", str(tensor), "-o", f"{tensor}.gch"], check=True)

        def check(header):
            source = Path(scratch) / f"{header.parent.name}_{header.stem}.cpp"
            # Twice: the second one shows a missing include guard.
            source.write_text(f'#include "{header}"\n#include "{header}"\n', encoding="utf-8")
            front = ["-include", str(tensor)] if includes_tensor(header) else []
            done = subprocess.run([compiler, *flags, *front, "-fsyntax-only", str(source)], capture_output=True, text=True)
            if done.returncode == 0:
                key(header).touch()
            return header, done

        failed = 0
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            for header, done in pool.map(check, stale):
                if done.returncode:
                    failed += 1
                    print(f"{header.relative_to(ROOT)} does not compile alone:\n{done.stderr}")
    print(f"{len(headers)} public headers, {len(stale)} checked now, {failed} failed")
    sys.exit(1 if failed else 0)


main()
