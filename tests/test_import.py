# SPDX-License-Identifier: Apache-2.0
"""import pose_kernels: fast, and possible with anything optional missing or broken."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import pose_kernels as pk
from pose_kernels import backends

PACKAGE = Path(pk.__file__).parent


def python(code: str, path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    drop = ("POSE_KERNELS_BACKEND", "TRITON_INTERPRET", "PYTHONPATH")
    clean = {k: v for k, v in os.environ.items() if k not in drop}
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=path,
        env={**clean, "PYTHONPATH": str(path), "CUDA_VISIBLE_DEVICES": "", **environment},
    )


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A folder with the package's Python files and nothing compiled."""
    ignore = shutil.ignore_patterns("*.so", "_build_info.json", "__pycache__")
    shutil.copytree(PACKAGE, tmp_path / "pose_kernels", ignore=ignore)
    return tmp_path


REPORT = """
import json, sys, warnings
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    import pose_kernels as pk
import torch
image, uv = torch.ones(1, 1, 4, 4), torch.rand(1, 2, 4, 4)
part = torch.ones(1, 4, 4, dtype=torch.long)
atlas, weight = pk.uv_splat(image, part, uv, num_parts=1, size=3)
out = pk.uv_gather(pk.push_pull(atlas, weight), part, uv)
print(json.dumps({
    "file": pk.__file__,
    "unavailable": pk.backends.unavailable,
    "current": pk.backends.current(),
    "cpu": pk.backends.chosen("uv_splat", "cpu"),
    "cuda": pk.backends.chosen("uv_splat", "cuda"),
    "triton": "triton" in sys.modules,
    "warnings": [str(w.message) for w in seen if "POSE_KERNELS" in str(w.message)],
    "right": torch.allclose(out, torch.ones(())),
}))
"""


def report(path: Path, before: str = "", **environment: str) -> dict:
    done = python(before + REPORT, path, **environment)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert Path(found["file"]).parent == path / "pose_kernels"
    assert found["right"]
    return found


def test_import_takes_less_than_300_ms_beyond_torch():
    """The least of several: the machine may be busy with something else."""
    code = (
        "import time, torch, json, pathlib, warnings, importlib.util, contextlib\n"
        "start = time.perf_counter()\n"
        "import pose_kernels\n"
        "print(time.perf_counter() - start)\n"
    )
    seconds: list[float] = []
    while len(seconds) < 6 and min(seconds, default=1) >= 0.3:
        seconds.append(float(python(code, PACKAGE.parent).stdout))
    assert min(seconds) < 0.3, seconds


def test_import_is_quiet_and_imports_nothing_heavy():
    code = (
        "import sys, torch\n"
        "before = set(sys.modules)\n"
        "import pose_kernels\n"
        "new = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        "print(sorted(new & {'triton', 'PIL', 'cv2', 'matplotlib', 'sympy', 'scipy', 'models'}))\n"
    )
    done = python(code, PACKAGE.parent)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_without_compiled_libraries(bare):
    found = report(bare)
    assert found["unavailable"]["cpp"] == "_C_cpu was not built"
    assert found["unavailable"]["cuda"] == "_C_cuda was not built"
    assert (found["current"], found["cpu"], found["warnings"]) == ("auto", "reference", [])


def test_the_reason_of_the_build_is_told(bare):
    info = {"missing": {"_C_cpu": "no C++ compiler: tried g++", "_C_cuda": "POSE_KERNELS_CUDA=0"}}
    (bare / "pose_kernels" / "_build_info.json").write_text(json.dumps(info))
    found = report(bare, POSE_KERNELS_BACKEND="cpp")
    assert found["unavailable"]["cpp"] == "_C_cpu was not built: no C++ compiler: tried g++"
    assert found["unavailable"]["cuda"] == "_C_cuda was not built: POSE_KERNELS_CUDA=0"
    assert found["warnings"] == [
        "POSE_KERNELS_BACKEND=cpp is ignored: _C_cpu was not built: no C++ compiler: tried g++"
    ]


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that backends.py takes for its own, in this process."""
    monkeypatch.setattr(backends, "__file__", str(tmp_path / "backends.py"))
    monkeypatch.setattr(backends, "unavailable", {})
    return tmp_path


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"missing": null}', "\0\0"])
def test_a_damaged_build_record_is_no_obstacle(elsewhere, content):
    (elsewhere / "_build_info.json").write_text(content)
    backends._load("cpp", "_C_cpu")
    assert backends.unavailable == {"cpp": "_C_cpu was not built"}


@pytest.mark.parametrize("content", [b"", b"not a library"])
def test_a_damaged_library_is_no_obstacle(elsewhere, content):
    (elsewhere / "_C_cpu.abi3.so").write_bytes(content)
    backends._load("cpp", "_C_cpu")
    reason = backends.unavailable["cpp"]
    assert reason.startswith(f"_C_cpu.abi3.so did not load into torch {torch.__version__}: ")


@pytest.mark.parametrize(
    ("version", "old"),
    [
        ("2.9.1+cpu", True),
        ("2.8.0a0+git1234567", True),
        ("1.13.1", True),
        ("2.10.0rc1", False),
        ("2.13.0a0+git1234567.nv25.1", False),
        ("3.0.0.dev20260101+cu130", False),
    ],
)
def test_versions_of_torch(elsewhere, monkeypatch, version, old):
    """Below 2.10, the stable ABI's, the library is not even opened; odd versions are understood."""
    (elsewhere / "_C_cpu.abi3.so").write_bytes(b"not a library")
    monkeypatch.setattr(torch, "__version__", version)
    backends._load("cpp", "_C_cpu")
    too_old = f"torch {version} is older than 2.10, the stable ABI _C_cpu is built for"
    opened = f"_C_cpu.abi3.so did not load into torch {version}: "
    assert backends.unavailable["cpp"].startswith(too_old if old else opened)


BLOCKED = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "triton":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Block())
"""


def test_without_triton(bare):
    """However it is missing: nothing by that name, a finder that refuses, a None in sys.modules."""
    for before in (BLOCKED, "import sys\nsys.modules['triton'] = None\n"):
        found = report(bare, before)
        assert found["unavailable"]["triton"] == "the package triton is not installed"
        assert not found["triton"] or "None" in before


ASKED_FOR = {"POSE_KERNELS_BACKEND": "triton", "TRITON_INTERPRET": "1"}


@pytest.mark.parametrize("environment", [{}, ASKED_FOR], ids=["unasked", "asked for"])
def test_a_broken_triton_is_no_obstacle(bare, environment):
    """Installed and not importable, asked for or not: told, never raised at import."""
    (bare / "triton").mkdir()
    (bare / "triton" / "__init__.py").write_text("raise RuntimeError('libcuda.so not found')\n")
    found = report(bare, **environment)
    assert found["cpu"] == "reference"
    assert found["current"] == "auto"
    if environment:
        assert len(found["warnings"]) == 1
        assert found["warnings"][0].startswith("POSE_KERNELS_BACKEND=triton is ignored: ")
        assert "libcuda.so not found" in found["warnings"][0]
