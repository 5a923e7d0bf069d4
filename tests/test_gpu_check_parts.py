# SPDX-License-Identifier: Apache-2.0
"""The parts of tools/gpu_check.py: calls, sanitizer, ABI, benchmarks, report."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import pose_kernels as pk
from pose_kernels.autograd import OPERATORS

ROOT = Path(__file__).resolve().parents[1]
TOOLS = ROOT / "tools"
if not (TOOLS / "gpu_check.py").exists():
    pytest.skip("tools/ is not here", allow_module_level=True)
sys.path.insert(0, str(TOOLS))

import abi_check  # noqa: E402
import gpu_benchmarks  # noqa: E402
import gpu_report  # noqa: E402
import gpu_stages  # noqa: E402
import op_calls  # noqa: E402
import sanitize  # noqa: E402
import sanitizer_runs  # noqa: E402

# ---- the calls


@pytest.mark.parametrize("call", op_calls.CALLS, ids=lambda call: call.name)
def test_calls_are_what_the_reference_takes(call):
    got = call.run(call.inputs("cpu"))
    expected = call.run(call.inputs("cpu"), reference=True)
    assert len(got) == len(expected) > len(call.wanted)
    for a, b in zip(got, expected, strict=True):
        near = 0.05 if a.dtype in (torch.float16, torch.bfloat16) else 1e-3
        torch.testing.assert_close(a, b, rtol=near, atol=near)
        assert a.count_nonzero(), "nothing happens"
    flipped = {k: x.flip(0) if isinstance(x, torch.Tensor) else x for k, x in call.make().items()}
    other = call.run(flipped)
    assert not all(torch.equal(a, b) for a, b in zip(got, other)), "tests/test_gpu.py flips them"


class Watch(TorchDispatchMode):
    """Names of our operators as they run."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "pose_kernels":
            self.seen.add(func._schema.name.removeprefix("pose_kernels::"))
        return func(*args, **(kwargs or {}))


def test_sanitize_runs_every_operator(capsys):
    with Watch() as watch:
        assert sanitize.main(["--device", "cpu", "--backend", "auto"]) == 0
    assert watch.seen == set(OPERATORS)
    rows = capsys.readouterr().out.splitlines()
    assert rows[:-1] == [call.name for call in op_calls.CALLS]
    assert rows[-1] == f"{len(op_calls.CALLS)} calls on cpu, auto: done"


def test_sanitize_some(capsys):
    assert (
        sanitize.main("--device cpu --backend reference --op heatmap --op region_crop".split()) == 0
    )
    ops = [row.split()[0] for row in capsys.readouterr().out.splitlines()[:-1]]
    assert ops == ["heatmap"] * 4 + ["region_crop"] * 2
    assert {call.op for call in op_calls.chosen("triton")} == {
        call.op for call in op_calls.CALLS if call.op in pk.backends.triton_ops
    }


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_sanitize_without_a_gpu(capsys):
    with pytest.raises(SystemExit) as stopped:
        sanitize.main([])
    assert stopped.value.code == 2
    assert "--device cuda: torch finds no GPU here" in capsys.readouterr().err


# ---- compute-sanitizer

CLEAN = "========= COMPUTE-SANITIZER\nuv_splat contiguous\n========= ERROR SUMMARY: 0 errors\n"
INVALID = """========= COMPUTE-SANITIZER
uv_splat contiguous
uv_gather contiguous
========= Invalid __global__ read of size 4 bytes
=========     at {kernel}+0x340
=========     Address 0x7f is out of bounds
========= ERROR SUMMARY: 2 errors
"""
HAZARD = "========= RACECHECK SUMMARY: 1 hazard displayed (1 error, 0 warnings)\n"
KERNEL = "void pose_kernels::cuda::<unnamed>::uv_gather_kernel<float>(...)"


@pytest.mark.parametrize(
    ("text", "status", "outcome", "errors", "why"),
    [
        (CLEAN, 0, "passed", 0, None),
        (INVALID.format(kernel=KERNEL), 99, "failed", 2, "2 errors, first in uv_gather contiguous"),
        (
            INVALID.format(kernel="at::native::copy()"),
            *(99, "passed", 2),
            "2 errors, first in uv_gather contiguous; none names a kernel of this package",
        ),
        (HAZARD + "========= at uv_splat_kernel", 0, "failed", 1, "1 errors, before the first op"),
        ("Traceback\nOSError: no", 1, "failed", 0, "exit status 1: Traceback OSError: no"),
        ("uv_splat contiguous\n", None, "failed", 0, "out of time after: uv_splat contiguous"),
    ],
)
def test_what_the_sanitizer_says(text, status, outcome, errors, why):
    found = sanitizer_runs.read(text, status)
    assert (found["outcome"], found["errors"], found.get("why")) == (outcome, errors, why)


@pytest.fixture
def sanitizer(tmp_path, monkeypatch):
    """A compute-sanitizer that runs nothing: racecheck finds an error, synccheck takes forever, and
    to memcheck uv_gather costs the GPU."""
    script = tmp_path / "bin" / "compute-sanitizer"
    script.parent.mkdir()
    script.write_text(
        "#!/bin/sh\n"
        'case "$2" in\n'
        "  memcheck) for each; do last=$each; done\n"
        "    echo heatmap plane; [ $last = triton ] && exit 0\n"
        "    [ $last = cuda ] && { echo uv_gather x; echo '========= Invalid _kernel'; exit 99; }\n"
        "    echo $last later ;;\n"
        "  racecheck) echo '========= Error: Race at pose_kernels'; exit 99 ;;\n"
        "  synccheck) exec sleep 60 ;;\n"
        f'esac\necho "$*"; echo "{CLEAN}"\n'
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.delenv("CUDA_PATH", raising=False)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    return script


def test_sanitizer_stage(sanitizer, tmp_path):
    assert sanitizer_runs.find() == str(sanitizer)
    record = gpu_stages.Record(tmp_path / "record.json", gpu_stages.MARGIN_S + 1)
    sanitizer_runs.stage(record)
    runs = record.content["runs"]
    outcomes = {name: run["outcome"] for name, run in runs.items()}
    right = dict.fromkeys(sanitizer_runs.RUNS, "failed")
    assert outcomes == right | {"initcheck": "passed", "memcheck, triton": "passed"}
    assert runs["memcheck"]["why"] == "0 errors, first in uv_gather x"
    assert [runs[name]["starts"] for name in ("memcheck", "racecheck")] == [2, 1]
    assert json.loads(record.path.read_text())["outcome"] == "failed"
    assert "synccheck: out of time after: nothing" in record.content["why"]


def test_without_a_sanitizer(sanitizer, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "other"))
    monkeypatch.setattr(sanitizer_runs.find, "__defaults__", (str(tmp_path / "none"),))
    record = gpu_stages.Record(tmp_path / "record.json", 60)
    sanitizer_runs.stage(record)
    assert record.content["outcome"] == "skipped"
    assert record.content["why"].startswith("there is no compute-sanitizer on PATH")


# ---- the ABI


@pytest.mark.skipif("cpp" in pk.backends.unavailable, reason="_C_cpu is not loaded")
def test_a_library_from_elsewhere():
    """With the library for the CPU, which this machine has."""
    (library,) = Path(pk.__file__).parent.glob("_C_cpu.*so")
    found = abi_check.check(library, kind="_C_cpu")
    assert found["outcome"] == "passed", found
    assert found["built_with_torch"] == pk.backends.build_info()["torch"]
    assert (found["torch"], found["ran"]) == (torch.__version__, "uv_splat contiguous")
    assert 0 <= found["largest_difference"] < 1e-4


def test_a_library_that_crashes(tmp_path, monkeypatch):
    (tmp_path / "mine.so").write_bytes(b"")
    (tmp_path / "python").write_text("#!/bin/sh\necho undefined symbol >&2\nkill -SEGV $$\n")
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    found = abi_check.check(tmp_path / "mine.so", kind="_C_cpu")
    assert (found["outcome"], found["why"]) == ("failed", "exit status -11: undefined symbol")


def test_only_the_copy_counts():
    """Not the package that the machine has anyway."""
    found = abi_check.worker("/elsewhere/pose_kernels/_C_cpu.abi3.so", "_C_cpu")
    assert found["outcome"] == "failed" and found["why"].endswith("not the copy")


# ---- the benchmarks


def result(op, commands="c", copy=1000.0, **more):
    row = {"op": op, "direction": "forward", "case": "B1", "provider": "ours, cuda", "kind": "ours"}
    row |= {"bytes_moved": 10**9, "flops": 1, "ceiling_gb_s": 4000.0, "median_ms": 0.5}
    row |= {"low_ms": 0.4, "high_ms": 0.6, "gb_s": 2000.0, "share_of_ceiling": 0.5}
    ceiling = [{"megabytes": 64.0, "copy_gb_s": copy, "fill_gb_s": 9.0}]
    rows = [row | {"refused": None} | more]
    return {"command": commands, "gpu": "NVIDIA H200", "ceiling": ceiling, "rows": rows}


def test_results_of_several_runs_are_one():
    whole = gpu_benchmarks.merged([result("uv_splat", "a", 3000.0), result("heatmap", "b")])
    assert (whole["command"], whole["gpu"]) == ("a; b", "NVIDIA H200")
    assert whole["ceiling"][0]["copy_gb_s"] == 3000
    table = gpu_benchmarks.table(whole["rows"])
    assert "| uv_splat forward | B1 | 0.5 (0.4-0.6) |" in table and "| 50 % |" in table


def test_benchmarks_in_groups(tmp_path, monkeypatch):
    """The second group dies, the third times nothing of ours, the last takes too long: what it has
    measured counts."""
    contents = {"a": result("uv_splat"), "c": result("heatmap", refused="it differs")}
    half = json.dumps(result("flow_warp") | {"complete": False})

    def command(ops, target, device):
        partial = target.with_name(f"{target.stem}.partial.json")
        hangs = f"open({str(partial)!r}, 'w').write({half!r}); import time; time.sleep(60)"
        code = {"b": "raise SystemExit('no memory')", "d": hangs}
        write = f"open({str(target)!r}, 'w').write({json.dumps(contents.get(ops[0]))!r})"
        return [sys.executable, "-c", code.get(ops[0], write)]

    monkeypatch.setattr(gpu_benchmarks, "command", command)
    record = gpu_stages.Record(tmp_path / "record.json", gpu_stages.MARGIN_S + 2)
    target = tmp_path / "rows.json"
    begun = time.monotonic()
    gpu_benchmarks.stage(record, target, groups=[("a",), ("b",), ("c",), ("d",)])
    assert time.monotonic() - begun < 10
    whole = json.loads(target.read_text())
    assert [row["op"] for row in whole["rows"]] == ["uv_splat", "heatmap", "flow_warp"]
    assert whole["complete"] is True
    assert record.content["outcome"] == "failed"
    assert record.content["failed_groups"] == ["b: exit status 1 no memory", "d: out of time,"]
    assert "heatmap ours, cuda: it differs" in record.content["why"]
    assert record.content["refused"] == ["heatmap, ours, cuda: it differs"]


def test_calls_that_wait_are_not_captured(monkeypatch):
    """With PyTorch's watch replaced: it needs a GPU to be switched on."""
    from benchmarks import timing

    modes = ["default"]
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: modes[-1])
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)

    def call(message=None):
        assert modes[-1] == "error"
        if message:
            raise RuntimeError(message)

    assert timing._waits(lambda: call("called a synchronizing CUDA operation"))
    assert not timing._waits(call)
    with pytest.raises(RuntimeError, match="out of memory"):
        timing._waits(lambda: call("out of memory"))
    assert modes == ["default", "error", "default", "error", "default", "error", "default"]


def test_every_op_is_in_a_group():
    from benchmarks.registry import MODULES
    from benchmarks.run import parse

    ops = [op for group in gpu_benchmarks.GROUPS for op in group]
    assert sorted(ops) == sorted(MODULES)
    words = gpu_benchmarks.command(("heatmap",), Path("x.json"), "cpu")[3:]
    options = parse(words)
    assert (options.op, options.json, options.quick) == (["heatmap"], Path("x.json"), True)


def test_providers_of_cpu_tensors_are_left_out():
    from benchmarks.registry import MODULES, load

    found = {
        device: {
            p.name for op in MODULES for c in load(op).CASES for p in load(op).providers(c, device)
        }
        for device in ("cpu", "cuda")
    }
    assert {name for name in found["cpu"] if "cv2" in name} == {"cv2.remap HWC"}
    assert not any("cv2" in name for name in found["cuda"])
    assert "grid_sample" in found["cuda"]


# ---- the report


def test_report(tmp_path):
    run = {"outcome": "failed", "errors": 2, "seconds": 3.0, "why": "2 errors | x"}
    failed = [{"test": f"tests/test_a.py::test_{i}", "why": "assert\n 1 == 2"} for i in range(50)]
    stages = {
        "build": {
            **{"outcome": "passed", "seconds": 61.4, "architecture": "9.0", "jobs": "16"},
            **{"build_s": 60.0, "faults": []},
            "kernels": {"uv_splat.cu": {"kernels": 24, "most_registers": 72}},
        },
        "doctor": {"outcome": "passed", "seconds": 9.0, "output": "  cuda:0   ok\n"},
        "contract-cuda": {
            **{"outcome": "failed", "why": "50 tests failed", "seconds": 150.2, "restarts": 1},
            "counts": {"passed": 900, "failed": 50},
            "failed": failed,
            "skipped": {"one GPU": 3},
            "slowest": {"tests/test_a.py::test_1": 12.5},
        },
        "sanitizer": {"outcome": "failed", "runs": {"memcheck": {**run, "output": "at k+0x1"}}},
        "abi": {"outcome": "skipped", "why": "no --library was given"},
        "bench": {
            **{"outcome": "passed", "summary": "| op | ...", "refused": ["a, b: c"]},
            "ceiling": [{"megabytes": 64.0, "copy_gb_s": 4012.3}],
        },
        "gpu": {"outcome": "failed", "why": "its process died of SIGSEGV", "log": "last words"},
    }
    machine = {"gpu": "NVIDIA H200", "capability": "9.0", "torch": "2.11.0", "cuda": "13.0"}
    content = {"date": "2026-01-02", "commit": "abc", "machine": machine, "stages": stages}
    gpu_report.write(tmp_path / "x.json", content)
    assert json.loads((tmp_path / "x.json").read_text()) == content
    page = (tmp_path / "x.md").read_text()
    for text in (
        "# GPU check: NVIDIA H200, commit abc",
        "GPU NVIDIA H200, sm_90; torch 2.11.0 (CUDA 13.0).",
        "| build | passed | 61 | sm_90, 16 jobs |",
        "| uv_splat.cu | 24 | 72 |",
        "| contract-cuda | **failed** | 150 | 50 tests failed; 900 passed, 50 failed; 1 restarts",
        "* `tests/test_a.py::test_0`: assert 1 == 2",
        "* `tests/test_a.py::test_49`\n",
        "* 3: one GPU",
        "`tests/test_a.py::test_1` 12.5 s",
        "| memcheck | failed | 2 | 3.0 | 2 errors \\| x |",
        "at k+0x1",
        "| abi | skipped |  | no --library was given |",
        "GB/s: 4012 at 64 MB.",
        "* a, b: c",
        "## gpu\n\n```\nlast words\n```",
    ):
        assert text in page, text
    assert gpu_report.line(stages["contract-cuda"]) == (
        "failed: 50 tests failed (900 passed, 50 failed), 150 s"
    )
