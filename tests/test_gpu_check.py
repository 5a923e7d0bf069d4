# SPDX-License-Identifier: Apache-2.0
"""tools/gpu_check.py and what it runs, as far as a machine without a GPU can tell."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import Place

import pose_kernels as pk

ROOT = Path(__file__).resolve().parents[1]
TOOLS = ROOT / "tools"
if not (TOOLS / "gpu_check.py").exists():
    pytest.skip("tools/ is not here", allow_module_level=True)
sys.path.insert(0, str(TOOLS))

import gpu_check  # noqa: E402
import gpu_stages  # noqa: E402
import shard  # noqa: E402

# ---- the command


def test_list(capsys):
    assert gpu_check.main(["--list"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert [row.split()[0] for row in rows] == list(gpu_stages.STAGES)
    assert all(len(row.split("at most")[1].split()) > 3 for row in rows), "every stage says what"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--only", "everything"], "invalid choice: 'everything'"),
        (["--budget-s", "0"], "--budget-s must be positive"),
        (["--shards", "0"], "--shards must be at least 1"),
        (["--library", "/none.so"], "/none.so: there is no such file"),
        (["--commit", "a/b"], "--commit becomes part of a file name"),
    ],
)
def test_wrong_arguments(capsys, words, message):
    with pytest.raises(SystemExit) as stopped:
        gpu_check.main(words)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_no_gpu(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpu_check.main(["--out", str(tmp_path)]) == 2
    line = f"gpu_check: torch {torch.__version__} finds no GPU here; nothing was run\n"
    assert capsys.readouterr() == ("", line)
    assert not list(tmp_path.iterdir())


MACHINE = {"gpu": "NVIDIA H200", "capability": "9.0", "cores": 3, "torch": "2.11.0"}


@pytest.fixture
def results(monkeypatch):
    """What stages return, by name; the ones that ran, with their seconds."""
    found = {"facts": {"outcome": "passed", **MACHINE}}
    ran = {}

    def run_stage(name, seconds, extra=()):
        ran[name] = seconds
        return found.get(name, {"outcome": "passed", "seconds": 1.0})

    monkeypatch.setattr(gpu_check, "run_stage", run_stage)
    return SimpleNamespace(found=found, ran=ran)


def run_check(folder, *words):
    status = gpu_check.main(["--out", str(folder), "--commit", "abc", *words])
    target = folder / "gpu-check-NVIDIA-H200-abc.json"
    return status, json.loads(target.read_text())["stages"], target


def test_all_stages(results, tmp_path):
    status, stages, target = run_check(tmp_path)
    assert status == 0
    assert list(stages) == list(gpu_stages.STAGES)
    assert all(results.ran[name] <= stage.seconds for name, stage in gpu_stages.STAGES.items())
    assert (
        target.with_suffix(".md").read_text().startswith("# GPU check: NVIDIA H200, commit abc\n")
    )
    assert len(list(tmp_path.iterdir())) == 2


def test_a_failure_is_the_exit_status_and_other_runs_are_kept(results, tmp_path):
    results.found["doctor"] = {"outcome": "failed", "why": "its self test failed"}
    assert run_check(tmp_path, "--only", "doctor")[0] == 1
    status, stages, _ = run_check(tmp_path, "--only", "abi")
    assert status == 0, "the failure of an earlier run is not one of this"
    assert (stages["doctor"]["outcome"], stages["abi"]["outcome"]) == ("failed", "passed")


def test_a_budget_that_is_used_up(results, tmp_path):
    status, stages, _ = run_check(tmp_path, "--budget-s", "5", "--only", "build")
    assert (status, results.ran.keys()) == (0, {"facts"})
    assert stages["build"] == {"outcome": "skipped", "why": "--budget-s 5 is used up"}


def test_a_run_that_is_stopped_leaves_what_it_found(results, tmp_path, monkeypatch):
    run_stage = gpu_check.run_stage

    def stopped(name, seconds, extra=()):
        if name == "gpu":
            raise KeyboardInterrupt
        return run_stage(name, seconds, extra)

    monkeypatch.setattr(gpu_check, "run_stage", stopped)
    with pytest.raises(KeyboardInterrupt):
        run_check(tmp_path, "--only", "build", "gpu")
    stages = json.loads((tmp_path / "gpu-check-NVIDIA-H200-abc.json").read_text())["stages"]
    assert stages["build"]["outcome"] == "passed"
    assert stages["gpu"] == {"outcome": "failed", "why": "stopped in it"}


def test_merge(results, tmp_path, capsys):
    results.found["abi"] = {"outcome": "skipped", "why": "no --library was given"}
    first = run_check(tmp_path / "a", "--only", "gpu", "abi")[2]
    results.found |= {"abi": {"outcome": "passed"}, "gpu": {"outcome": "skipped"}}
    second = run_check(tmp_path / "b", "--only", "gpu", "abi", "build")[2]
    words = ["--merge", str(first), str(second), "--out", str(tmp_path)]
    assert gpu_check.main(words) == 0
    stages = json.loads((tmp_path / first.name).read_text())["stages"]
    assert list(stages) == ["build", "gpu", "abi"]
    assert all(result["outcome"] == "passed" for result in stages.values())
    other = json.loads(second.read_text()) | {"commit": "other"}
    second.write_text(json.dumps(other))
    assert gpu_check.main(words) == 2
    assert (
        "different GPUs or commits: NVIDIA H200 abc, NVIDIA H200 other" in capsys.readouterr().err
    )


# ---- a stage and its process

SCRIPT = """
import json, os, pathlib, subprocess, sys, time
stage, record = sys.argv[1], pathlib.Path(sys.argv[3])
if stage == "slow":
    record.write_text(json.dumps({"found": 3}))
    child = "import time, pathlib; time.sleep(1.2); pathlib.Path(r'%s').touch()" % record.parents[1]
    subprocess.Popen([sys.executable, "-c", child.replace("')", "/survivor')")])
    time.sleep(60)
if stage == "dies":
    record.write_text(json.dumps({"found": 3}))
    print("last words", flush=True)
    os.abort()
if stage == "tells":
    record.write_text(json.dumps({"outcome": "passed", "output": "in " + sys.argv[6]}))
if stage == "fine":
    record.write_text(json.dumps({"outcome": "passed"}))
if stage == "half":
    record.write_text('{"outc')
    sys.exit(3)
"""


def test_stages_end_as_they_do(tmp_path, monkeypatch):
    script = tmp_path / "stages.py"
    script.write_text(SCRIPT)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def run(name, seconds=20.0, extra=()):
        found = gpu_check.run_stage(name, seconds, extra, script=script)
        assert found.pop("seconds") < seconds + 1
        return found

    begun = time.monotonic()
    slow = run("slow", 0.6)
    assert slow == {"found": 3, "outcome": "failed", "why": "stopped after 1 s", "log": ""}
    assert run("fine") == {"outcome": "passed"}
    told = run("tells", extra=[str(ROOT / "tools")])["output"]
    assert told == "in ./tools", "paths of the machine are left out"
    dead = run("dies")
    assert (dead["found"], dead["outcome"]) == (3, "failed")
    assert (dead["why"], dead["log"]) == ("its process died of SIGABRT", "last words\n")
    assert run("half")["why"] == "its process ended with status 3"
    assert run("none")["why"] == "its process ended with status 0"
    time.sleep(max(0.0, 1.6 - (time.monotonic() - begun)))
    assert not (tmp_path / "survivor").exists(), "a child outlived its stage"


def test_a_stage_that_raises_says_so(tmp_path, monkeypatch):
    def broken(record, options):
        record.update(found=3)
        raise ZeroDivisionError("no")

    monkeypatch.setitem(gpu_stages.STAGES, "abi", gpu_stages.Stage(broken, 1))
    path = tmp_path / "record.json"
    with pytest.raises(ZeroDivisionError):
        gpu_stages.main(["abi", "--record", str(path), "--seconds", "9"])
    assert json.loads(path.read_text()) == {
        "found": 3,
        "outcome": "failed",
        "why": "ZeroDivisionError: no",
    }


# ---- tests in shards

TESTS = """
import os, pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

@st.composite
def pairs(draw):
    return draw(st.integers(0, 3))

@pytest.fixture
def place():
    return 1

class TestSweep:
    sweep = st.builds(dict, x=st.lists(st.floats(0, 1).filter(bool)) | st.just([]), y=pairs())

    @settings(max_examples=9, suppress_health_check=[HealthCheck.too_slow])
    @given(data=st.data())
    def test_sweep(self, place, data):
        assert False, "nobody draws"

@pytest.mark.parametrize("i", range(6))
def test_fine(i):
    pass

def test_wrong():
    assert 1 == 2

def test_left_out():
    pytest.skip("no reason")

def test_lost():
    raise RuntimeError("CUDA error: an illegal memory access was encountered")

def test_dies():
    os.abort()

@pytest.fixture
def late():
    yield
    raise ValueError("too late")

def test_late(late):
    pass
"""


def test_shards_go_on_behind_a_crash(tmp_path):
    """And without hypothesis: its stand-in lets the rest of a file run."""
    (tmp_path / "test_sample.py").write_text(TESTS)
    (tmp_path / "test_torn.py").write_text("import nothing_of_this_name\n")
    found = shard.run(
        [str(tmp_path), "--rootdir", str(tmp_path)],
        **{"shards": 2, "folder": tmp_path, "seconds": 60},
        environment={**os.environ, "PYTHONPATH": str(TOOLS / "stand_ins")},
    )
    assert found["counts"] == {"failed": 5, "passed": 6, "skipped": 2}
    why = {each["test"].split("::")[-1]: each["why"] for each in found["failed"]}
    assert "No module named 'nothing_of_this_name'" in why["test_torn.py"]
    assert why["test_wrong"] == "assert 1 == 2"
    assert "illegal memory access" in why["test_lost"]
    assert why["test_dies"] == "crashed its process, or was stopped in it"
    assert why["test_late"] == "ValueError: too late"
    assert found["skipped"] == {"hypothesis is not installed here": 1, "no reason": 1}
    assert (found["restarts"], found["broken"], found["timed_out"]) == (2, [], False)


def test_a_run_that_cannot_begin_says_why(tmp_path):
    arguments = ["/no/such/test.py", "--noconftest"]
    found = shard.run(arguments, shards=1, folder=tmp_path, seconds=60)
    assert found["counts"] == {} and found["restarts"] == 0
    assert "file or directory not found: /no/such/test.py" in found["broken"][0]


def test_time_runs_out(tmp_path):
    (tmp_path / "test_slow.py").write_text("import time\ndef test_slow():\n    time.sleep(60)\n")
    arguments = [str(tmp_path / "test_slow.py"), "--rootdir", str(tmp_path)]
    found = shard.run(arguments, shards=1, folder=tmp_path, seconds=1.5)
    assert found["timed_out"]
    assert found["counts"] in ({"failed": 1}, {}), "stopped in the test, or before it"


def test_files_about_a_gpu():
    cuda, triton = gpu_stages.files_about("cuda"), gpu_stages.files_about("triton")
    assert {"tests/test_uv_splat.py", "tests/test_heatmap_modes.py"} <= set(triton) < set(cuda)
    for name in ("push_pull", "uv_raster", "helmert_fit", "helmert_fit_modes", "mesh_raster"):
        assert f"tests/test_{name}.py" in set(cuda) - set(triton)
    assert not any(word in name for name in cuda for word in ("emulated", "gpu", "triton"))


def test_what_runs_on_a_gpu_is_kept(tmp_path):
    splat, pull = (type("T", (), {"op": staticmethod(op)}) for op in (pk.uv_splat, pk.push_pull))
    rows = [
        (splat, {"place": Place("cuda", "cuda")}, "cuda"),
        (splat, {"place": Place("triton", "cuda")}, "triton"),
        (pull, {"place": Place("triton", "cuda")}, ""),  # there is no such kernel
        (splat, {"place": Place("cpp", "cpu")}, ""),
        (pull, {"device": "cuda"}, "cuda"),
        (None, {"device": "cuda"}, "cuda triton"),
        (None, {"device": "cpu"}, ""),
        (None, None, ""),
    ]
    for backend in ("cuda", "triton"):
        given = {"--events": str(tmp_path / "x"), "--shard": "0/1", "--gpu": backend}
        events = shard.Events(SimpleNamespace(getoption=given.get))
        for cls, params, wanted in rows:
            item = SimpleNamespace(cls=cls, callspec=SimpleNamespace(params=params))
            if params is None:
                del item.callspec
            assert events.wanted(item) == (backend in wanted.split()), (backend, params)
