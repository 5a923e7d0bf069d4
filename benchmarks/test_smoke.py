# SPDX-License-Identifier: Apache-2.0
"""The benchmarks at tiny sizes: ``pytest benchmarks`` (needs pytest-benchmark).

They keep the suite from rotting and track regressions of the call overhead; what is fast at real
sizes is a question for ``python -m benchmarks.run``.
"""

import dataclasses
import json
import statistics
import time
from contextlib import nullcontext

import pytest
import torch

from benchmarks import agreement, measuring, memory, registry, report, run, timing
from benchmarks.registry import Provider

pytest.importorskip("pytest_benchmark")

ALL_CASES = [
    pytest.param(op, case, id=f"{op}-{case.direction}-{case.title}")
    for op in registry.MODULES
    for case in registry.load(op).CASES
]


def tiny(case):
    return dataclasses.replace(case.small(), dtype=case.dtype)


@pytest.fixture(autouse=True)
def forget_expected():
    yield
    agreement.forget()


@pytest.mark.parametrize("op, case", ALL_CASES)
def test_every_provider_agrees(op, case):
    module, case = registry.load(op), tiny(case)
    tensors = module.inputs(case, "cpu")
    for provider in module.providers(case, "cpu"):
        if registry.unavailable(provider) or (
            case.direction != "forward" and not provider.gradients
        ):
            continue
        assert measuring.check(module, case, provider, tensors) is None, provider.name


def main_providers():
    for op in registry.MODULES:
        for case in registry.load(op).CASES:
            if case.main and case.dtype == torch.float32 and not case.channels_last:
                for provider in registry.load(op).providers(tiny(case), "cpu"):
                    if case.direction == "forward" or provider.gradients:
                        yield pytest.param(
                            op, tiny(case), provider, id=f"{op}-{case.direction}-{provider.name}"
                        )


@pytest.mark.parametrize("op, case, provider", list(main_providers()))
def test_time(benchmark, op, case, provider):
    if registry.unavailable(provider):
        pytest.skip(registry.unavailable(provider))
    module = registry.load(op)
    call = registry.workload(module, case, provider, module.inputs(case, "cpu"))
    with provider.active():
        result = benchmark.pedantic(call, rounds=5, warmup_rounds=1)
    assert memory.size_of(result) > 0


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(lambda a, w: (a.flip(-1), w), id="mirrored"),
        pytest.param(lambda a, w: (a.roll(1, 1), w), id="next part"),
        pytest.param(lambda a, w: (a * (1 + 1e-4), w), id="scaled"),
        pytest.param(lambda a, w: (a, w * float("nan")), id="NaN"),
        pytest.param(lambda a, w: (a.detach() + 0 * a, w), id="no gradient"),
    ],
)
def test_wrong_formulation_is_refused(fault):
    module = registry.load("uv_splat")
    case = tiny(next(c for c in module.CASES if c.direction == "both"))

    class Broken:
        """The module with one more provider, that is wrong."""

        def __getattr__(self, name):
            return getattr(module, name)

        __name__ = "broken"

        @staticmethod
        def providers(case, device):
            (right,) = (p for p in module.providers(case, device) if p.kind == "eager")
            call = lambda *t: fault(*right.call(*t))  # noqa: E731
            return [Provider("wrong", "eager", call)]

    broken = Broken()
    (provider,) = broken.providers(case, "cpu")
    reason = measuring.check(broken, case, provider, module.inputs(case, "cpu"))
    assert reason is not None and "off by" in reason


def test_one_that_raises_is_a_row():
    module = registry.load("uv_splat")
    case = tiny(module.CASES[0])

    def fails(*tensors):
        raise RuntimeError("out of memory\nand more")

    provider = dataclasses.replace(module.providers(case, "cpu")[0], call=fails, kind="compiled")
    reason = measuring.check(module, case, provider, module.inputs(case, "cpu"))
    assert reason == "RuntimeError: out of memory"


def test_command_writes_what_it_prints(monkeypatch, tmp_path, capsys):
    module = registry.load("uv_gather")
    monkeypatch.setattr(module, "CASES", [tiny(module.CASES[0])])
    monkeypatch.setattr(run.roofline, "CPU_SIZES", (1 << 16,))
    target = tmp_path / "result.json"
    words = "--op uv_gather --rounds 1 --quick --no-memory --threads 1 --json".split()
    threads = torch.get_num_threads()
    try:
        assert run.main([*words, str(target)]) == 0
    finally:
        torch.set_num_threads(threads)
    content = json.loads(target.read_text())
    assert content["allocator"].startswith("default") and content["threads"] == 1
    rows = {row["provider"]: row for row in content["rows"]}
    assert {"4 x gather", "24 x grid_sample", "5-D grid_sample", "foreground"} <= set(rows)
    for row in rows.values():
        assert row["refused"] is not None or row["low_ms"] <= row["median_ms"] <= row["high_ms"]
    printed = capsys.readouterr().out
    assert printed.count("uv_gather forward") == 1 and "over eager" in printed


def test_a_loss_is_shown():
    common = dict(op="o", direction="forward", case="c", bytes_moved=10**6, flops=1)
    rows = [
        report.Row(**common, provider="a", kind="ours", ceiling_gb_s=10.0, median_ms=2.0),
        report.Row(**common, provider="b", kind="eager", ceiling_gb_s=10.0, median_ms=5.0),
        report.Row(**common, provider="d", kind="eager", ceiling_gb_s=10.0, median_ms=3.0),
        report.Row(**common, provider="e", kind="peer", ceiling_gb_s=10.0, median_ms=1.0),
        report.Row(**common, provider="f", kind="smart", ceiling_gb_s=10.0, refused="wrong"),
    ]
    line = report.summary(rows).splitlines()[2].split("|")
    # over the faster eager one, no smart one, none compiled, slower than the peer; 0.5 GB/s of 10
    assert [cell.strip() for cell in line[4:10]] == ["1.5x", "-", "-", "▼0.5x", "0.5", "5 %"]


def test_plot_shows_the_ratios(tmp_path):
    plot = pytest.importorskip("benchmarks.plot")
    pytest.importorskip("matplotlib")
    common = dict(op="uv_splat", direction="forward", case="B8", ceiling_gb_s=10.0)
    rows = [
        report.Row(**common, provider=kind, kind=kind, bytes_moved=1, flops=1, median_ms=ms)
        for kind, ms in (("ours", 2.0), ("eager", 30.0), ("smart", 1.0))
    ]
    source = tmp_path / "in.json"
    facts = report.environment("cpu", "default", "warm", "python -m benchmarks.run")
    source.write_text(json.dumps({**facts, "rows": [row.as_dict() for row in rows]}))
    assert plot.main([str(source), str(tmp_path / "out.svg")]) == 0
    drawn = (tmp_path / "out.svg").read_text()
    assert ">15x<" in drawn and ">0.5x<" in drawn and "uv_splat" in drawn


def test_taking_turns(monkeypatch):
    monkeypatch.setattr(timing, "NOISY", float("inf"))  # no block is repeated
    order = []
    fast = timing.Contender("fast", lambda: order.append("fast"), nullcontext)
    slow = timing.Contender("slow", lambda: (order.append("slow"), time.sleep(0.01)), nullcontext)
    found = timing.interleave([fast, slow], rounds=3, block_s=0.0, patience=0.0)
    assert order[6:] == 3 * (["fast"] * 2 + ["slow"] * 2)  # after three calls to learn the length
    assert found["slow"].least >= 0.01 > found["fast"].median
    assert found["slow"].samples >= 3


def test_slow_calls_are_not_repeated(monkeypatch):
    monkeypatch.setattr(timing, "SLOW_S", 0.01)
    monkeypatch.setattr(timing, "NOISY", -1.0)  # every block is noisy
    order = []
    fast = timing.Contender("fast", lambda: order.append("fast"), nullcontext)
    slow = timing.Contender("slow", lambda: (order.append("slow"), time.sleep(0.02)), nullcontext)
    found = timing.interleave([fast, slow], rounds=2, block_s=0.0, patience=0.0)
    assert order.count("slow") == 1 + 2 and order.count("fast") == 3 + 4 * 2
    assert found["slow"].samples == 2 and found["slow"].noisy


def test_quartiles_lie_among_the_samples():
    found = timing.timing_of([1.0, 9.0], 0.0, False, "wall clock")
    assert (found.low, found.median, found.high) == (3.0, 5.0, 7.0)
    assert timing.timing_of([2.0], 0.0, False, "wall clock")[:4] == (2.0, 2.0, 2.0, 2.0)


def test_noisy_blocks_are_set_aside():
    quiet = [timing.Block([1.0, 2.0, 3.0], 0.0)] * 2
    noisy = [timing.Block([100.0], 0.9)]
    counted = timing._summary(quiet + noisy, quiet, rounds=2)
    assert counted.median == statistics.median([1.0, 2.0, 3.0]) and not counted.noisy
    only_noise = timing._summary(noisy, [], rounds=2)
    assert only_noise.median == 100.0 and only_noise.noisy and only_noise.foreign == 0.9


def test_peak_memory_counts_results_and_workspace():
    def call():
        workspace = torch.ones(4 << 20)  # 16 MiB
        return workspace[: 1 << 20] + 1

    found = memory.peak(call, "cpu")
    if found is None:
        pytest.skip("this system does not reset VmHWM")
    # What an earlier test freed may serve again: less than 20 MiB is possible, more is not.
    assert found <= (20 << 20) + (2 << 20)
    assert memory.size_of(call()) == 4 << 20
