# SPDX-License-Identifier: Apache-2.0
"""The training-step benchmark: everybody trains the same network, and who does not is not timed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
if not (ROOT / "benchmarks" / "training.py").exists():
    pytest.skip("the benchmarks are in a checkout, not in an install", allow_module_level=True)
sys.path.append(str(ROOT))  # at the end: an installed pose_kernels stays the one that is tested

from benchmarks import streams, timing, training  # noqa: E402

SMALL = ["--size", "small", "--steps", "1"]


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    monkeypatch.setattr(timing, "BLOCK_S", 0.0)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_rows_are_written_and_losses_agree(tmp_path, capsys):
    target = tmp_path / "steps.json"
    assert training.main([*SMALL, "--no-memory", "--threads", "1", "--json", str(target)]) == 0
    content = json.loads(target.read_text())
    assert content["complete"] and content["threads"] == 1 and content["allocator"] == "default"
    kinds = [(row["op"], row["kind"]) for row in content["rows"]]
    assert kinds == [
        (f"training {stream}", kind)
        for stream in ("surface", "volume")
        for kind in ("ours", "eager", "smart")
    ]
    for row in content["rows"]:
        assert row["refused"] is None and row["direction"] == "step"
        assert 0 < row["low_ms"] <= row["median_ms"] <= row["high_ms"]
        first, later = (float(word) for word in row["note"].split(", after 3 steps "))
        assert later < first  # it learns
    printed = capsys.readouterr().out
    assert printed.count("| surface, B2") == 3 and printed.count("| volume, B2") == 3


@pytest.mark.parametrize(
    "stream, change",
    [
        (
            "surface",
            lambda ops: ops._replace(gather=lambda a, p, uv: ops.gather(a.flip(-1), p, uv)),
        ),
        ("surface", lambda ops: ops._replace(splat=lambda x, *t: ops.splat(x.detach(), *t))),
        ("volume", lambda ops: ops._replace(warp=lambda v, m, t: ops.warp(v.detach(), m, t))),
        ("volume", lambda ops: ops._replace(fit=lambda a, b, w: ops.fit(b, a, w))),
        ("volume", lambda ops: ops._replace(mask=lambda p, size: ops.mask(p, size) * 0)),
    ],
    ids=["mirrored atlas", "no gradient", "no gradient of the volume", "inverse fits", "no masks"],
)
def test_another_network_is_refused(stream, change, monkeypatch):
    problem = streams.STREAMS[stream]["small"]
    ours, _, smart = problem.makers("cpu")
    wrong = smart._replace(name="wrong", ops=change(smart.ops))
    monkeypatch.setattr(type(problem), "makers", lambda self, device: [ours, wrong])
    options = training.parse([*SMALL, "--no-memory", "--stream", stream])
    right, refused = training.measure(stream, options)
    assert right.refused is None and right.median_ms is not None
    assert "loss is" in refused.refused and refused.median_ms is None


def test_peak_memory_of_a_step(capsys):
    assert training.main([*SMALL, "--peak-of", "surface", "eager"]) == 0
    peak = json.loads(capsys.readouterr().out)
    assert peak is None or 0 <= peak < 200 << 20
