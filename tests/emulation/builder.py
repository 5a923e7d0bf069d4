# SPDX-License-Identifier: Apache-2.0
"""Compiles csrc/cuda against cuda_emulation.h into a Python module, once per state of the sources.

Objects are kept in pytest's cache folder, named by a hash of all that went into them.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).resolve().parent
CSRC = HERE.parents[1] / "csrc"
HEADER = HERE / "cuda_emulation.h"
SOURCES = [*sorted((CSRC / "cuda").glob("*.cu")), *sorted(HERE.glob("*.c*"))]
FLAGS = ["-std=c++17", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wno-unknown-pragmas"]
# Kernels compile and run in seconds with -O1; the module itself only unpacks arguments.
KERNEL_FLAGS = ["-O1", "-x", "c++", "-include", str(HEADER)]
# Set in a process that preloads AddressSanitizer: kernels are then built with it.
SANITIZE = "POSE_KERNELS_EMULATION_SANITIZE"


class CannotBuild(Exception):
    """There is no compiler or no pybind11 here."""


def compiler() -> list[str]:
    command = shlex.split(os.environ.get("CXX", "g++"))
    if not shutil.which(command[0]):
        raise CannotBuild(f"no C++ compiler: {command[0]} was not found")
    if importlib.util.find_spec("pybind11") is None:
        raise CannotBuild("pybind11 is not installed")
    return command


def sanitizer_libraries() -> str | None:
    """What LD_PRELOAD needs for a sanitized module in an ordinary Python; None: there is none."""
    paths = []
    for name in ("libasan.so", "libstdc++.so"):  # the second, or exceptions are not intercepted
        command = [*compiler(), f"-print-file-name={name}"]
        paths.append(subprocess.run(command, capture_output=True, text=True).stdout.strip())
    return " ".join(paths) if all(map(os.path.isabs, paths)) else None


def build(cache: Path) -> Path:
    """The module's file, compiled as far as the cache does not hold it."""
    with open(cache / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests in several processes: the first of them compiles
        return _build(cache)


def _build(cache: Path) -> Path:
    import pybind11

    command = [*compiler(), *FLAGS]
    includes = [f"-I{sysconfig.get_path('include')}", f"-I{pybind11.get_include()}"]
    sanitize = ["-fsanitize=address"] if os.environ.get(SANITIZE) else []
    headers = [path.read_text() for path in sorted([*CSRC.rglob("*.h"), *HERE.glob("*.h")])]
    objects, steps = [], []
    for source in SOURCES:
        kernel = source.suffix == ".cu"
        own = [*command, *(sanitize + KERNEL_FLAGS if kernel else ["-O0", *includes])]
        name = f"{source.stem}-asan" if kernel and sanitize else source.stem
        key = hashlib.sha256(repr((own, source.read_text(), headers)).encode()).hexdigest()[:16]
        objects.append(cache / f"{name}.{key}.o")
        if not objects[-1].exists():
            for old in cache.glob(f"{name}.*.o"):
                old.unlink(missing_ok=True)
            steps.append(([*own, "-c", str(source)], objects[-1]))
    with ThreadPoolExecutor(min(2, os.cpu_count() or 1)) as pool:
        list(pool.map(lambda step: _make(*step), steps))
    module = cache / f"cuda_emulated{'_asan' if sanitize else ''}.so"
    if steps or not module.exists() or module.stat().st_mtime < _newest(objects):
        _make([*command, "-shared", *sanitize, *map(str, objects)], module)
    return module


def _newest(paths: list[Path]) -> float:
    return max(path.stat().st_mtime for path in paths)


def _make(command: list[str], output: Path) -> None:
    """Run a compiler; the output appears whole or not at all."""
    partial = output.with_suffix(f".{os.getpid()}")
    command = [*command, "-o", str(partial)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{shlex.join(command)}\n{done.stderr}")
    os.replace(partial, output)


def emulated_module(request, tmp_path_factory) -> ModuleType:
    """For fixtures: the module, built where needed; skips the test where it cannot be."""
    import executions
    import pytest

    if "cuda_emulated" not in sys.modules:
        cache = getattr(request.config, "cache", None)
        make_folder = cache.mkdir if cache else tmp_path_factory.mktemp
        try:
            path = build(make_folder("cuda_emulated"))
        except CannotBuild as reason:
            pytest.skip(f"the CUDA kernels cannot be emulated: {reason}")
        spec = importlib.util.spec_from_file_location("cuda_emulated", path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        executions.watch_emulated(module)
        sys.modules["cuda_emulated"] = module
    return sys.modules["cuda_emulated"]
