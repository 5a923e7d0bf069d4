# SPDX-License-Identifier: Apache-2.0
"""What the README and the docstrings show must run and be true."""

from __future__ import annotations

import doctest
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import pose_kernels as pk

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]

needs_checkout = pytest.mark.skipif(
    not (ROOT / "README.md").exists(), reason="the pages are in a checkout, not in an install"
)


@needs_checkout
def test_quick_start_runs(tmp_path):
    block = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert block, "the README has no Python block"
    code = block.group(1)
    assert len([line for line in code.splitlines() if line.strip()]) <= 15
    script = tmp_path / "quick_start.py"
    script.write_text(code)
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(pk.__file__).parents[1])},
    )
    assert done.returncode == 0, done.stderr
    assert "torch.Size([1, 3, 256, 256])" in done.stdout


@pytest.mark.parametrize(
    "module", ["checks", "appearance_flow", *(f"ops.{op}" for op in pk.reference.__all__)]
)
def test_docstring_examples(module):
    loaded = importlib.import_module(f"pose_kernels.{module}")
    tests = doctest.DocTestFinder().find(loaded, extraglobs={"torch": torch})
    runner = doctest.DocTestRunner()
    for test in tests:
        runner.run(test)
    assert runner.tries > 0 and runner.failures == 0


@needs_checkout
@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:]+?)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


@needs_checkout
def test_every_op_has_its_row_of_files():
    for op in pk.reference.__all__:
        assert hasattr(pk, op) and hasattr(pk.reference, op)
        for path in (
            f"csrc/ops/{op}.h",
            f"csrc/cpu/{op}.cpp",
            f"csrc/cuda/{op}.cu",
            f"csrc/binding/{op}.cpp",
            f"pose_kernels/ops/{op}.py",
            f"pose_kernels/reference/{op}.py",
            f"tests/test_{op}.py",
            f"benchmarks/bench_{op}.py",
            f"docs/ops/{op}.md",
        ):
            assert (ROOT / path).exists(), path
