# SPDX-License-Identifier: Apache-2.0
"""--compare: another revision in a process of its own, on the clock beside this one."""

import json
import os
import shutil
import subprocess
import tempfile
from functools import partial
from pathlib import Path

import pytest
import torch

from benchmarks import agreement, measuring, registry, revision, run, timing, worker
from benchmarks.test_smoke import tiny

GIT = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "init.defaultBranch=main"]
WORDS = "--rounds 1 --quick --no-memory --threads 1".split()


@pytest.fixture(autouse=True)
def as_before(monkeypatch):
    ceiling = run.roofline.Ceiling({1: 10.0}, {1: 10.0})
    monkeypatch.setattr(run.roofline, "measure", lambda *a, **k: ceiling)
    monkeypatch.setattr(timing, "interleave", partial(timing.interleave, block_s=0.001))
    monkeypatch.setattr(timing, "QUIET", 2.0)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    agreement.forget()


def joined(op, client):
    """The benchmark of an op with what answers as one more provider."""
    other = revision.Revision("other", Path("nowhere"), 1)
    other._client = client
    return other.joined(op, registry.load(op))


def client(server=None):
    server = server or worker.Server()
    return worker.Client("abc1234", server.answer)


@pytest.mark.parametrize("op", ["uv_splat", "region_crop", "mesh_raster"])
def test_what_it_computes_is_checked(op):
    module = joined(op, client())
    case = tiny(next((c for c in module.CASES if c.direction == "both"), module.CASES[0]))
    provider = module.providers(case, "cpu")[-1]
    assert (provider.name, provider.kind) == ("abc1234", "earlier")
    assert measuring.check(module, case, provider, module.inputs(case, "cpu")) is None


@pytest.mark.parametrize("method", ["run", "gradients"])
def test_wrong_numbers_are_refused(method):
    class Wrong(worker.Server):
        pass

    right = getattr(worker.Server, method)
    setattr(Wrong, method, lambda self, *a: tuple(x * 1.001 for x in right(self, *a)))
    module = joined("uv_gather", client(Wrong()))
    case = tiny(next(c for c in module.CASES if c.direction == "both"))
    reason = measuring.check(
        module, case, module.providers(case, "cpu")[-1], module.inputs(case, "cpu")
    )
    assert reason is not None and "off by" in reason


def test_its_clock():
    module = registry.load("uv_splat")
    case = tiny(module.CASES[0])
    asked = client()
    contender = asked.contender("uv_splat", case, module.inputs(case, "cpu"))
    assert len(contender.seconds(3)) == 3 and all(s > 0 for s in contender.seconds(2))
    assert asked.processor_seconds > 0
    asked.ask("release")
    with pytest.raises(worker.Failed):
        contender.seconds(1)


def test_an_op_that_it_lacks(monkeypatch):
    module = joined("region_crop", client())
    case = tiny(module.CASES[0])
    monkeypatch.delattr(worker.pk, "region_crop")
    provider = module.providers(case, "cpu")[-1]
    reason = measuring.check(module, case, provider, module.inputs(case, "cpu"))
    assert reason == "that revision has no region_crop"


@pytest.fixture
def temporary(monkeypatch, tmp_path):
    """Where worktrees go."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def left_in(folder):
    return list(folder.glob("pose_kernels-*"))


def only_ours(monkeypatch, op, case):
    """A run of one tiny case without baselines."""
    module = registry.load(op)
    providers = module.providers
    monkeypatch.setattr(module, "CASES", [tiny(case)])
    monkeypatch.setattr(
        module, "providers", lambda *a: [p for p in providers(*a) if p.kind == "ours"]
    )


@pytest.fixture
def repository(temporary, monkeypatch, tmp_path):
    """Commits a project of these files, in place of this one: {path: text}."""

    def commit(files):
        root = tmp_path / "project"
        for name, text in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
        for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "one"]):
            subprocess.run([*GIT, *words], cwd=root, check=True)
        monkeypatch.setattr(revision, "ROOT", root)

    yield commit
    assert left_in(temporary) == []
    listed = subprocess.run(
        ["git", "worktree", "list"], cwd=tmp_path / "project", capture_output=True, text=True
    )
    assert len(listed.stdout.splitlines()) == 1


def test_a_revision_that_does_not_build(repository, capsys):
    repository({"pose_kernels/__init__.py": "", "setup.py": "raise SystemExit('a.cpp: no')"})
    assert run.main([*WORDS, "--compare", "HEAD"]) == 2
    said = capsys.readouterr().err
    assert "does not build here:\na.cpp: no" in said


@pytest.mark.parametrize("ref, reason", [("nowhere", "nowhere"), ("HEAD", "no package")])
def test_no_such_revision(repository, capsys, ref, reason):
    repository({"README": "another project"})
    assert run.main([*WORDS, "--compare", ref]) == 2
    assert reason in capsys.readouterr().err


ANOTHER = """
import os
import torch
from contextlib import nullcontext

use_backend = nullcontext
class backends:
    unavailable = {"cpp": "there is none"}
    chosen = staticmethod(lambda op, device: "reference")

def heatmap(points, size, sigma, stride):
    axes = [torch.arange(n, dtype=points.dtype) for n in size]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij")[::-1], -1) * stride
    centers = points[(slice(None), slice(None), *[None] * len(size))]
    return torch.exp(-(grid - centers).pow(2).sum(-1) / (2 * sigma**2))

def helmert_fit(*arguments):
    os._exit(3)
"""


def test_another_revision_on_the_clock(repository, monkeypatch, tmp_path, capsys):
    """One op that it has, one under which it dies, one that it lacks: of each a row."""
    repository({"pose_kernels/__init__.py": ANOTHER, "setup.py": ""})
    ops = {"heatmap": "both", "helmert_fit": "forward", "mesh_raster": "forward"}
    words = list(WORDS)
    for op, direction in ops.items():
        case = next(c for c in registry.load(op).CASES if c.direction == direction)
        only_ours(monkeypatch, op, case)
        words += ["--op", op]
    target = tmp_path / "result.json"
    assert run.main([*words, "--json", str(target), "--compare", "HEAD"]) == 0
    content = json.loads(target.read_text())
    name = content["compared"]["commit"]
    heatmap, fit, mesh = (row for row in content["rows"] if row["kind"] == "earlier")
    assert heatmap["refused"] is None and heatmap["samples"] > 0 < heatmap["median_ms"]
    assert (heatmap["provider"], heatmap["note"]) == (name, "runs on its backend 'reference'")
    assert fit["refused"] == f"the process of {name} ended with 3"
    assert mesh["refused"] == "that revision has no mesh_raster"
    assert all(row["median_ms"] > 0 for row in content["rows"] if row["kind"] == "ours")
    assert f"over {name}" in capsys.readouterr().out


@pytest.mark.skipif("POSE_KERNELS_SLOW_TESTS" not in os.environ, reason="compiles what differs")
def test_the_last_commit_beside_the_working_tree(temporary, monkeypatch, tmp_path, capsys):
    inside = subprocess.run(["git", "rev-parse", "HEAD"], cwd=revision.ROOT, capture_output=True)
    if inside.returncode != 0:
        pytest.skip("this is no git checkout")
    cases = registry.load("region_crop").CASES
    only_ours(monkeypatch, "region_crop", next(c for c in cases if c.direction == "both"))
    target = tmp_path / "result.json"
    words = [*WORDS, "--op", "region_crop", "--json", str(target)]
    assert run.main([*words, "--compare", "HEAD"]) == 0
    content = json.loads(target.read_text())
    name = content["compared"]["commit"]
    (row,) = (row for row in content["rows"] if row["kind"] == "earlier")
    assert row["provider"] == name and row["refused"] is None and row["samples"] > 0
    assert f"over {name}" in capsys.readouterr().out
    listed = subprocess.run(["git", "worktree", "list"], cwd=revision.ROOT, capture_output=True)
    assert listed.returncode == 0 and str(tmp_path) not in listed.stdout.decode()
    assert left_in(temporary) == []


def test_not_on_a_gpu(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(SystemExit):
        run.parse(["--compare", "HEAD", "--device", "cuda"])
    assert "--compare: on the CPU only" in capsys.readouterr().err
