# SPDX-License-Identifier: Apache-2.0
"""nvcc compiles every kernel for every architecture we ship, with nothing spilled to local memory.

The compilation is that of the build (`make test` builds first), so it is not paid twice.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ROOT / "tools"


def load(name, monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))
    spec = importlib.util.spec_from_file_location(name, TOOLS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_kernel_compiles_without_spills(monkeypatch):
    toolchain = load("toolchain", monkeypatch)
    try:
        toolchain.find_nvcc()
    except toolchain.Unavailable as reason:
        pytest.skip(f"CUDA kernels cannot be compiled: {reason}")
    if not (ROOT / "build" / "kernels" / "cuda").is_dir():
        pytest.skip("the CUDA library was not built in this folder")
    done = subprocess.run(
        [sys.executable, str(TOOLS / "check_cuda.py")], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout + done.stderr
    asked = os.environ.get("TORCH_CUDA_ARCH_LIST")
    architectures = len(asked.split(";")) if asked else 7
    for source in (ROOT / "csrc" / "cuda").glob("*.cu"):
        assert done.stdout.count(source.name) >= architectures, "an architecture is missing"


LOG = """
ptxas info    : Compiling entry function '_Z1kv' for 'sm_90'
ptxas info    : Function properties for _Z1kv
    {stack} bytes stack frame, {spill} bytes spill stores, {spill} bytes spill loads
ptxas info    : Used 40 registers, used 0 barriers
"""


@pytest.mark.parametrize("spill, faults", [(0, 0), (12, 1)])
def test_a_spill_is_a_fault(monkeypatch, spill, faults):
    registers, found = load("check_cuda", monkeypatch).read_log(LOG.format(stack=0, spill=spill))
    assert dict(registers) == {"sm_90": [40]}
    assert len(found) == faults
