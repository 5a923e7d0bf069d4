# SPDX-License-Identifier: Apache-2.0
"""Loads a compiled library that was built elsewhere and runs one op with it: the ABI promise.

    python tools/abi_check.py FILE

One build of _C_cuda serves every Python and every torch from 2.10 on. The library takes the place
of this machine's own in a copy of the package, in a process of its own.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))
DEVICES = {"_C_cuda": ("cuda", "cuda"), "_C_cpu": ("cpu", "cpp")}  # device, backend


def check(library: Path, *, kind: str = "_C_cuda", seconds: float = 120) -> dict[str, Any]:
    """What came of it. kind: which of the two libraries FILE is."""
    content = library.read_bytes()
    built = _build_info(library)
    found: dict[str, Any] = {
        "library": library.name,
        "sha256": hashlib.sha256(content).hexdigest(),
        "megabytes": round(len(content) / 1e6, 1),
        "built_with_torch": built.get("torch"),
        "commit": built.get("commit"),
    }
    with tempfile.TemporaryDirectory(prefix="pose_kernels_abi_") as name:
        copy = Path(name, "pose_kernels")
        ours = shutil.ignore_patterns("*.so", "_build_info.json", "__pycache__")
        shutil.copytree(package(), copy, ignore=ours)
        (copy / f"{kind}.abi3.so").write_bytes(content)
        command = [sys.executable, __file__, str(copy / f"{kind}.abi3.so"), "--worker", kind]
        environment = {k: v for k, v in os.environ.items() if k != "POSE_KERNELS_BACKEND"}
        environment["PYTHONPATH"] = name
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=seconds, cwd=name
        )
    try:
        return {**found, **json.loads(done.stdout.splitlines()[-1])}
    except (IndexError, ValueError):
        last = (done.stderr.strip().splitlines() or ["no word"])[-1]
        why = f"exit status {done.returncode}: {last}"
        return {**found, "outcome": "failed", "why": why, "output": done.stderr[-3000:]}


def package() -> Path:
    """The folder of the package: of this checkout, or of an installation beside unpacked tests."""
    spec = importlib.util.find_spec("pose_kernels")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent


def _build_info(library: Path) -> dict[str, Any]:
    try:
        return json.loads(library.with_name("_build_info.json").read_text())
    except (OSError, ValueError):
        return {}


def worker(library: str, kind: str) -> dict[str, Any]:
    """In the process with the copy: the op on this library against the reference."""
    import torch
    from op_calls import CALLS

    import pose_kernels as pk

    device, backend = DEVICES[kind]
    if Path(pk.__file__).parent != Path(library).parent:
        return {"outcome": "failed", "why": f"imported {pk.__file__}, not the copy"}
    found: dict[str, Any] = {"torch": torch.__version__, "python": sys.version.split()[0]}
    if backend in pk.backends.unavailable:
        return {**found, "outcome": "failed", "why": pk.backends.unavailable[backend]}
    call = CALLS[0]
    inputs = call.inputs(device)
    with pk.use_backend(backend):
        got = call.run(inputs)
    expected = call.run(call.inputs("cpu"), reference=True)
    pairs = zip([x.cpu() for x in got], expected, strict=True)
    worst = max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)
    found |= {"ran": call.name, "largest_difference": worst}  # of the largest value
    if worst < 1e-4:
        return {**found, "outcome": "passed"}
    return {**found, "outcome": "failed", "why": "it differs from the reference"}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("tools/abi_check.py", description=__doc__)
    parser.add_argument("library", type=Path, metavar="FILE", help="a _C_cuda.abi3.so")
    parser.add_argument("--worker", choices=sorted(DEVICES), help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.worker:
        print(json.dumps(worker(str(options.library), options.worker)))
        return 0
    if not options.library.is_file():
        parser.error(f"{options.library}: there is no such file")
    found = check(options.library)
    print(json.dumps(found, indent=1))
    return 0 if found["outcome"] == "passed" else 1


if __name__ == "__main__":
    sys.exit(main())
