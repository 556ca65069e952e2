"""The rules that no compiler checks: which room includes which, what a header brings along, what a tracked file may say.

Run by ctest (build.repository). Prints every offence with file and line; exit status 1 when there is one.
"""
import os
import re
import subprocess
import sys
import unittest
from pathlib import Path

ROOT = Path(os.environ.get("TESSERA_SOURCE_DIR", Path(__file__).resolve().parents[2]))
ROOMS = ["core", "comm", "io", "text", "image", "nn", "adapt", "models", "shard", "data", "train", "infer", "cli"]
CODE = {".hpp", ".cpp", ".cu", ".cuh"}
INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]')
# Headers over which a file costs 15 s and more to compile.
HEAVY = re.compile(r"^torch/(torch|all|types|extension)\.h$|^torch/nn/|^ATen/ATen\.h$")
# Paths of one machine: home folders, work folders, a package folder with a version in /usr/lib is fine.
MACHINE_PATH = re.compile(r"(?<![\w./$}-])/(root|home/\w+|work|opt/\w+|mnt|Users/\w+|scratch)/[\w.-]+")
MACHINE_PATH_ALLOWED = {"tests/build/repository_test.py"}


def tracked_files():
    """Tracked and new files; a source archive without git is walked instead."""
    try:
        listed = subprocess.run(["git", "-c", f"safe.directory={ROOT}", "-C", str(ROOT), "ls-files", "-z", "--cached",
                                 "--others", "--exclude-standard"], capture_output=True, check=True).stdout
        names = [n for n in listed.decode().split("\0") if n]
    except (OSError, subprocess.CalledProcessError):
        names = [str(p.relative_to(ROOT)) for p in ROOT.rglob("*") if not re.match(r"\.git$|\.git/|build|runs", str(p.relative_to(ROOT)))]
    return sorted({n for n in names if (ROOT / n).is_file()})


def room_of(name):
    match = re.match(r"(?:include/tessera|src|tests)/(\w+)/", name)
    return match.group(1) if match and match.group(1) in ROOMS else None


def includes(name):
    for number, line in enumerate((ROOT / name).read_text(encoding="utf-8").splitlines(), 1):
        match = INCLUDE.match(line)
        if match:
            yield number, match.group(1)


class Repository(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.files = tracked_files()
        cls.code = [n for n in cls.files if Path(n).suffix in CODE]

    def report(self, offences):
        self.assertFalse(offences, "\n" + "\n".join(offences))

    def test_a_room_includes_only_from_itself_and_the_rooms_above_it(self):
        offences = []
        for name in self.code:
            room = room_of(name)
            if room is None or name.startswith("tests/"):
                continue
            for number, target in includes(name):
                match = re.match(r"(?:tessera/)?(\w+)/", target)
                other = match.group(1) if match else None
                ours = target.startswith("tessera/") or (ROOT / "src" / target).exists()
                if ours and other in ROOMS and ROOMS.index(other) > ROOMS.index(room):
                    offences.append(f"{name}:{number}: {room} includes {target} of the later room {other}")
        self.report(offences)

    def test_a_room_includes_only_public_headers_of_other_rooms(self):
        offences = []
        for name in self.code:
            room = room_of(name)
            if room is None or name.startswith("tests/"):
                continue
            for number, target in includes(name):
                match = re.match(r"(\w+)/", target)
                if match and match.group(1) in ROOMS and match.group(1) != room and (ROOT / "src" / target).exists():
                    offences.append(f"{name}:{number}: includes the private header {target} of {match.group(1)}")
        self.report(offences)

    def test_public_headers_leave_the_heavy_headers_to_sources(self):
        offences = [f"{name}:{number}: {target}" for name in self.code if name.startswith("include/")
                    for number, target in includes(name) if HEAVY.match(target)]
        self.report(offences)

    def test_no_source_includes_all_of_torch(self):
        offences = [f"{name}:{number}: {target}" for name in self.code for number, target in includes(name)
                    if re.match(r"^torch/(torch|all|extension)\.h$|^ATen/ATen\.h$", target)]
        self.report(offences)

    def test_every_header_of_ours_has_pragma_once(self):
        offences = [name for name in self.code if name.endswith((".hpp", ".cuh"))
                    and "#pragma once" not in (ROOT / name).read_text(encoding="utf-8")]
        self.report(offences)

    def test_every_public_header_has_a_test_file(self):
        offences = []
        for name in self.code:
            match = re.match(r"include/tessera/(\w+)/(\w+)\.hpp$", name)
            if match and f"tests/{match.group(1)}/{match.group(2)}_test.cpp" not in self.files:
                offences.append(f"{name}: no tests/{match.group(1)}/{match.group(2)}_test.cpp")
        self.report(offences)

    def test_every_source_is_named_in_a_cmake_list(self):
        offences = []
        for name in self.code:
            path = Path(name)
            if path.suffix not in {".cpp", ".cu"} or name.startswith("include/"):
                continue
            lists = [folder / "CMakeLists.txt" for folder in path.parents if (ROOT / folder / "CMakeLists.txt").exists()]
            lists += [Path(n) for n in self.files if n.endswith(".cmake")]
            named = re.compile(rf"\b{re.escape(path.stem)}\b")  # a function of CMake may add the suffix
            if not any(named.search((ROOT / file).read_text(encoding="utf-8")) for file in lists):
                offences.append(f"{name}: compiled by nobody")
        self.report(offences)

    def test_tracked_files_name_no_path_of_one_machine(self):
        offences = []
        for name in self.files:
            if name in MACHINE_PATH_ALLOWED:
                continue
            data = (ROOT / name).read_bytes()
            if b"\0" in data[:4096]:
                continue
            for number, line in enumerate(data.decode("utf-8", "replace").splitlines(), 1):
                match = MACHINE_PATH.search(line)
                if match:
                    offences.append(f"{name}:{number}: {match.group(0)}")
        self.report(offences)

    def test_large_files_do_not_slip_in(self):
        offences = [f"{n}: {(ROOT / n).stat().st_size} bytes" for n in self.files if (ROOT / n).stat().st_size > 4 << 20]
        self.report(offences)

    def test_scripts_are_executable_and_parse(self):
        offences = []
        for name in self.files:
            path = ROOT / name
            first_line = path.read_bytes().split(b"\n")[0]
            if not first_line.startswith(b"#!") or b"bash" not in first_line:
                continue
            if not os.access(path, os.X_OK):
                offences.append(f"{name}: not executable")
            check = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True)
            if check.returncode:
                offences.append(f"{name}: {check.stderr.strip()}")
        self.report(offences)


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], "-v"])
