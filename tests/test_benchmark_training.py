# SPDX-License-Identifier: Apache-2.0
"""The training-step benchmark: everybody trains the same network, and who does not is not timed."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
if not (ROOT / "benchmarks" / "training.py").exists():
    pytest.skip("the benchmarks are in a checkout, not in an install", allow_module_level=True)
sys.path.append(str(ROOT))  # at the end: an installed pose_kernels stays the one that is tested

import pose_kernels as pk  # noqa: E402
from benchmarks import collected, streams, systems, timing, training  # noqa: E402

SMALL = ["--size", "small", "--steps", "1"]


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    monkeypatch.setattr(timing, "BLOCK_S", 0.0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_rows_are_written_and_losses_agree(tmp_path, capsys):
    target = tmp_path / "steps.json"
    assert training.main([*SMALL, "--no-memory", "--threads", "1", "--json", str(target)]) == 0
    content = json.loads(target.read_text())
    assert content["complete"] and content["threads"] == 1 and content["allocator"] == "default"
    kinds = [(row["op"], row["direction"], row["kind"]) for row in content["rows"]]
    assert kinds == [
        *(
            (f"training {stream}", "step", kind)
            for stream in ("surface", "volume")
            for kind in ("ours", "eager", "smart")
        ),
        *(
            (f"training dense_pose_transfer-{preset}", direction, kind)
            for preset in ("tiny", "paper")
            for direction in ("step", "ops of a step")
            for kind in ("ours", "eager")
        ),
    ]
    for row in content["rows"]:
        assert row["refused"] is None
        assert 0 < row["low_ms"] <= row["median_ms"] <= row["high_ms"]
        if row["direction"] == "step":
            first, later = re.split(r"[,;] after [13] steps? ", row["note"])
            assert number(later) < number(first)  # it learns
    printed = capsys.readouterr().out
    assert printed.count("| surface, B2") == 3 and printed.count("| volume, B2") == 3
    assert printed.count("| dense_pose_transfer-paper, B1 32x32 S16, l1 + gan, fp32: ops of") == 2
    assert "; after 1 step l1 0." in printed and ", discriminator 0." in printed
    assert not list(tmp_path.glob("*.partial.json"))


def number(words):
    """The first of its losses."""
    return float(re.match(r"(?:l1 )?([0-9.]+)", words)[1])


def test_a_run_that_dies_leaves_what_it_has(tmp_path, monkeypatch):
    """measure, as it is called, for one network; Ctrl-C in the second."""
    measure = training.measure

    def interrupted(stream, options):
        if stream == "volume":
            raise KeyboardInterrupt
        return measure(stream, options)

    monkeypatch.setattr(training, "measure", interrupted)
    target = tmp_path / "steps.json"
    words = [*SMALL, "--no-memory", "--threads", "1", "--json", str(target)]
    assert training.main([*words, "--stream", "surface", "--stream", "volume"]) == 130
    (left,) = tmp_path.iterdir()
    content = json.loads(left.read_text())
    assert left.name == "steps.partial.json" and not content["complete"]
    assert [row["op"] for row in content["rows"]] == ["training surface"] * 3


@pytest.fixture(scope="module")
def losses_of_ours():
    """By stream."""
    options, torch_threads = training.parse(SMALL), torch.get_num_threads()
    torch.set_num_threads(1)
    found = {
        name: training.losses(name, sizes["small"].makers("cpu")[0], options)
        for name, sizes in streams.STREAMS.items()
    }
    torch.set_num_threads(torch_threads)
    return found


@pytest.mark.parametrize(
    "stream, change",
    [
        ("surface", lambda ops: ops._replace(gather=lambda a, *t: ops.gather(a.flip(-1), *t))),
        ("surface", lambda ops: ops._replace(fill=lambda a, w: a)),
        ("surface", lambda ops: ops._replace(splat=lambda x, *t: ops.splat(x.detach(), *t))),
        ("volume", lambda ops: ops._replace(warp=lambda v, m, t: ops.warp(v.detach(), m, t))),
        ("volume", lambda ops: ops._replace(fit=lambda a, b, w: ops.fit(b, a, w))),
        ("volume", lambda ops: ops._replace(mask=lambda p, size: ops.mask(p, size) & ~2)),
    ],
    ids=["mirrored", "holes", "detached splat", "detached warp", "inverse fits", "no head"],
)
def test_another_network_disagrees(stream, change, losses_of_ours):
    _, _, smart = streams.STREAMS[stream]["small"].makers("cpu")
    wrong = smart._replace(ops=change(smart.ops))
    found = training.losses(stream, wrong, training.parse(SMALL))
    reason = training.disagreement(found, losses_of_ours[stream])
    assert reason is not None and "loss is" in reason


@pytest.mark.parametrize(
    "op, change",
    [
        ("uv_gather", lambda gather: lambda a, *t: gather(a.flip(-1), *t)),
        ("uv_raster", lambda raster: lambda x, p, uv, **k: raster(x, p, uv.flip(1), **k)),
    ],
    ids=["mirrored", "transposed"],
)
def test_a_system_with_another_op_disagrees(op, change, system_losses, monkeypatch):
    monkeypatch.setattr(pk, op, change(getattr(pk, op)))
    reason = training.disagreement(losses_of_system(), system_losses)
    assert reason is not None and re.match(r"its (first|later) \w+ loss is", reason)


@pytest.fixture(scope="module")
def system_losses():
    return losses_of_system()


def losses_of_system():
    name = "dense_pose_transfer-tiny"
    ours, _ = systems.SYSTEMS[name]["small"].makers("cpu")
    return training.losses(name, ours, training.parse(SMALL))


def test_the_ops_alone_are_those_of_a_step():
    """A pair's texture, that of its two pictures, the warp, and the gradient to the texture."""
    problem = systems.SYSTEMS["dense_pose_transfer-tiny"]["small"]
    ours, reference = problem.makers("cpu")
    step = problem.start(ours, "cpu").step
    replay = systems.recorded(step)
    with systems.Recorder() as again:
        replay()
    names = [call.func.name() for call in again.calls]
    wanted = ["uv_raster", "uv_gather", "uv_raster", "uv_splat"]
    assert sorted(names) == sorted(f"pose_kernels::{op}" for op in wanted)
    with problem.start(reference, "cpu").active():
        assert pk.backends.chosen("uv_raster", "cpu") == "reference"


def test_who_disagrees_is_not_timed(monkeypatch, capsys):
    problem = streams.STREAMS["surface"]["small"]
    ours, _, smart = problem.makers("cpu")

    def fails(*tensors):
        raise RuntimeError("out of memory\nand more")

    half = smart._replace(name="half", ops=smart.ops._replace(fill=lambda a, w: a / 2))
    broken = smart._replace(name="broken", ops=smart.ops._replace(gather=fails))
    monkeypatch.setattr(type(problem), "makers", lambda self, device: [ours, half, broken])
    assert training.main([*SMALL, "--no-memory", "--threads", "1", "--stream", "surface"]) == 1
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| surface")]
    assert "not timed" not in rows[0] and "| 1 | -" in rows[0]
    assert "half | not timed: its first loss is" in rows[1]
    assert "broken | not timed: RuntimeError: out of memory |" in rows[2]


def test_small_networks_are_no_results(capsys):
    with pytest.raises(SystemExit):
        training.main([*SMALL, "--out"])
    assert "results are of the default size" in capsys.readouterr().err


def test_some_of_the_networks_do_not_replace_all(monkeypatch, tmp_path):
    monkeypatch.setattr(collected, "FOLDER", tmp_path)
    facts = {"cpu": "Some CPU @ 3 GHz", "threads": 2}
    for words, name in (
        ([], "Some-CPU-2t-default-training.json"),
        (["--stream", "surface"], "Some-CPU-2t-default-training-surface.json"),
    ):
        record = training.record_of(training.parse(["--out", *words]), facts)
        assert list(record.targets.items()) == [(tmp_path / name, "json")]


def test_peak_memory_of_a_step(capsys):
    assert training.main([*SMALL, "--peak-of", "surface", "eager"]) == 0
    peak = json.loads(capsys.readouterr().out)
    assert peak is None or 0 <= peak < 200 << 20
