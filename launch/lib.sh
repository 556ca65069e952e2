# shellcheck shell=bash
# Sourced by the scripts of launch/ and tests/: where the private environment lies, and how it is found again.
# Defines functions and TESSERA_ROOT only; runs nothing and sets no shell option, so that `launch/env` may source it too.

TESSERA_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

say() { printf '[tessera] %s\n' "$*"; }
die() { printf '[tessera] error: %s\n' "$*" >&2; exit 1; }

# Runs its arguments with a lock held, waiting for another setup if need be. Children inherit the lock: were this script
# killed while pip still writes, the next one would wait for that pip.
with_lock() {
  local file=$1; shift
  mkdir -p "$(dirname "$file")"
  (
    flock --nonblock 9 || { say "another setup is running; waiting for it"; flock 9; }
    "$@"
  ) 9>"$file"
}

# A Python that can make the environment: 3.10 to 3.13 (the pinned wheels exist for these), with venv and pip inside.
python_serves() {
  "$1" -c 'import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1
}

# Prints the first Python that serves: $TESSERA_PYTHON, python3 of the PATH, the distribution's.
find_python() {
  local candidate
  for candidate in ${TESSERA_PYTHON:+"$TESSERA_PYTHON"} python3 /usr/bin/python3 python3.12 python3.11 python3.10; do
    if command -v "$candidate" >/dev/null && python_serves "$candidate"; then
      command -v "$candidate"
      return
    fi
  done
  return 1
}

env_base() { printf '%s\n' "${TESSERA_ENV_DIR:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/tessera}"; }

# The environment's folder for a Python: keyed by what goes into it, so that clones with equal pins share one and a
# changed pin never meets a half-fitting one.
env_dir() {
  local version key
  version=$("$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
  key=$({ cat "$TESSERA_ROOT/launch/requirements.txt"; echo "python $version $(uname -m)"; } | sha256sum | cut -c1-12)
  printf '%s/env-%s\n' "$(env_base)" "$key"
}

# A marker is the last thing written, and holds what was installed: a stage counts only when both agree.
stage_done() { [ -x "$1/bin/python" ] && cmp -s "$1/.$2-complete" "$TESSERA_ROOT/launch/$3"; }

# Prints the folder of the complete environment, or fails.
ready_env() {
  local python dir
  python=$(find_python) || return 1
  dir=$(env_dir "$python")
  stage_done "$dir" base requirements.txt || return 1
  printf '%s\n' "$dir"
}

site_packages() { printf '%s\n' "$1"/lib/python3*/site-packages; }

# Prints the nvcc of a CUDA 13 toolkit on this machine (the major version of the pinned torch), or fails.
system_nvcc() {
  local nvcc
  for nvcc in ${CUDACXX:+"$CUDACXX"} ${CUDA_HOME:+"$CUDA_HOME/bin/nvcc"} "$(command -v nvcc)" \
              /usr/local/cuda/bin/nvcc /usr/local/cuda-13*/bin/nvcc; do
    if [ -x "$nvcc" ] && "$nvcc" --version 2>/dev/null | grep -q 'release 13\.'; then
      printf '%s\n' "$nvcc"
      return
    fi
  done
  return 1
}

# Where CUDA comes from: `off`, `system`, or `pip` (the toolkit's PyPI packages inside the environment).
cuda_source() {
  case "${TESSERA_CUDA:-AUTO}" in
    OFF) echo off ;;
    PIP) echo pip ;;
    AUTO | ON) if system_nvcc >/dev/null; then echo system; else echo pip; fi ;;
    *) die "TESSERA_CUDA=$TESSERA_CUDA: use AUTO (the system's toolkit, else PyPI's), PIP (PyPI's) or OFF" ;;
  esac
}
