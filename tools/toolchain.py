# SPDX-License-Identifier: Apache-2.0
"""Finds what the compiled libraries are built with: torch's headers, a C++ compiler, nvcc.

Nothing here imports torch, needs a GPU, or reaches for the network. setup.py uses it.
"""

import importlib.metadata
import importlib.util
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from functools import lru_cache
from pathlib import Path

TORCH_TARGET = (2, 10)  # oldest torch the libraries run with; 2.9 has no const_data_ptr
ARCHS = ("7.5", "8.0", "8.6", "8.9", "9.0", "10.0", "12.0")  # and PTX of the highest
CXX_FLAGS = (
    "-O3 -DNDEBUG -std=c++17 -fPIC -fvisibility=hidden -fno-math-errno -fno-trapping-math "
    "-ffp-contract=fast -fopenmp-simd -Wall -Wextra"
).split()
NVCC_FLAGS = (  # no --use_fast_math: the backends must agree; -v tells registers and spills
    "-O3 -DNDEBUG -std=c++17 -Xcompiler=-fPIC,-fvisibility=hidden,-Wall -Xptxas=-v "
    "-Wno-deprecated-gpu-targets"
).split()


class Unavailable(Exception):
    """There is nothing to build a library with."""


class BuildFailed(Exception):
    """A compiler or linker failed."""


def run(command, **keywords):
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, **keywords)
    except OSError as error:
        raise Unavailable(f"{command[0]} does not run: {error}") from error


def first_error(done):
    """The line a person needs out of a failed compiler's output."""
    lines = [line.strip() for line in (done.stderr + done.stdout).splitlines() if line.strip()]
    line = next((x for x in lines if re.search(r"\b(error|fatal|undefined)\b", x)), None)
    line = line or (lines[-1] if lines else f"exit status {done.returncode}")
    older = "; set NVCC_CCBIN to an older g++" if "unsupported GNU version" in line else ""
    return f"{Path(done.args[0]).name}: {line}{older}"


@lru_cache
def find_torch():
    """(folder, version) of the torch to build against; its import is not needed."""
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        raise Unavailable(
            "there is no torch to build against (with --no-build-isolation: install it)"
        )
    version = importlib.metadata.version("torch")
    if tuple(int(n) for n in re.findall(r"\d+", version)[:2]) < TORCH_TARGET:
        raise Unavailable(f"torch {version} is older than 2.10, whose stable ABI is needed")
    return Path(spec.submodule_search_locations[0]), version


@lru_cache
def find_cxx():
    """(command, version) of a C++17 compiler that really makes a shared library."""
    if sys.platform != "linux":
        raise Unavailable(f"compiled libraries are built on Linux only, not on {sys.platform}")
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "c++", "clang++"]
    reason = f"no C++ compiler ({', '.join(names)}) was found"
    for command in map(shlex.split, names):
        if shutil.which(command[0]):
            with tempfile.TemporaryDirectory() as folder:
                probe = Path(folder, "probe.cpp")
                probe.write_text("#include <optional>\nstd::optional<int> f() { return 1; }\n")
                link = [*command, *CXX_FLAGS, "-shared", str(probe), "-o", f"{folder}/probe.so"]
                done = run(link)
            if done.returncode == 0:
                return command, run([*command, "--version"]).stdout.splitlines()[0]
            reason = f"the C++ compiler does not work: {first_error(done)}"
    raise Unavailable(reason)


def find_nvcc(default="/usr/local/cuda"):
    """nvcc as a command: POSE_KERNELS_NVCC, then CUDA_HOME, PATH, /usr/local/cuda."""
    asked = shlex.split(os.environ.get("POSE_KERNELS_NVCC", ""))
    if asked:
        if not shutil.which(asked[0]):
            raise Unavailable(f"POSE_KERNELS_NVCC={shlex.join(asked)} is not an executable")
        return asked
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")]
    folders = [f"{home}/bin" for home in homes if home]
    for folder in (*folders, os.environ.get("PATH", os.defpath), f"{default}/bin"):
        if found := shutil.which("nvcc", path=folder):
            return [found]
    raise Unavailable("no nvcc in POSE_KERNELS_NVCC, CUDA_HOME, PATH or /usr/local/cuda")


def nvcc_layout(nvcc):
    """What nvcc itself compiles and links with: true behind wrappers, in conda and pip layouts."""
    done = run([*nvcc, "--dryrun", "-c", "-x", "cu", os.devnull])
    found = dict(re.findall(r"^#\$ (INCLUDES|LIBRARIES)=(.*)$", done.stderr, re.M))
    if len(found) < 2:
        raise BuildFailed(f"nvcc --dryrun names no toolkit: {first_error(done)}")
    release = re.search(r"\bV(\d+\.\d+\.\d+)", run([*nvcc, "--version"]).stdout)
    version = release.group(1) if release else "unknown"
    return shlex.split(found["INCLUDES"]), shlex.split(found["LIBRARIES"]), version


def select_archs(requested, known):
    """What to build of a TORCH_CUDA_ARCH_LIST, given the output of `nvcc --list-gpu-arch`."""
    known = {f"{int(n) // 10}.{int(n) % 10}" for n in re.findall(r"compute_(\d+)\b", known)}
    if requested.strip() == "native":
        found = run(["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]).stdout
        requested = " ".join(sorted(set(re.findall(r"^\d+\.\d$", found, re.M))))
        if not requested:
            raise Unavailable("TORCH_CUDA_ARCH_LIST=native, but nvidia-smi shows no GPU")
    asked = re.split(r"[\s;,]+", requested.strip()) if requested.strip() else []
    for arch in asked:
        if not re.fullmatch(r"\d+\.\d[af]?(\+PTX)?", arch):
            raise Unavailable(f"TORCH_CUDA_ARCH_LIST: {arch!r} is not like 8.0, 9.0+PTX or native")
    if not asked:
        asked = [arch for arch in ARCHS if arch in known]
        asked[-1:] = [f"{arch}+PTX" for arch in asked[-1:]]
    kept = [a for a in asked if a.removesuffix("+PTX").rstrip("af") in known]
    if not kept:
        raise Unavailable(f"nvcc knows none of the architectures {requested or ' '.join(ARCHS)}")
    return kept


def arch_flags(archs):
    flags = []
    for arch in archs:
        number = arch.removesuffix("+PTX").replace(".", "")
        flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if arch.endswith("+PTX"):
            flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return flags


def describe(root):
    """What the doctor reports about a build: versions, and the commit where there is one."""
    info = {"torch_target": "{}.{}".format(*TORCH_TARGET), "platform": platform.platform()}
    for key, find in (("torch", find_torch), ("compiler", find_cxx)):
        try:
            info[key] = find()[1]
        except Unavailable:
            info[key] = None
    if (root / ".git").exists() and shutil.which(
        "git"
    ):  # an sdist inside another repository has none
        found = run(["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"])
        info["commit"] = found.stdout.strip() or None
    return info
