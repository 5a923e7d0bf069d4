# SPDX-License-Identifier: Apache-2.0
"""How long a training step of a whole network takes, with our kernels and with plain PyTorch.

    python -m benchmarks.training                        both networks, minutes
    python -m benchmarks.training --allocator warm --out   into benchmarks/results
    python -m benchmarks.training --size small --steps 2   seconds

The networks are in streams.py. Everybody starts from the same weights, and before the clock runs
the losses of the first step and after a few more must agree with ours; who disagrees is not timed,
and the command ends with 1. A step is forward, backward and Adam. Peak memory is that of a step,
beyond what the process held before it, each in a process of its own (memory.py).
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from . import collected, memory, report, timing
from .report import Row
from .run import WARM, allocator_name, check_machine, say
from .streams import STREAMS, Maker

PREFIX = "training "  # how the op of a row begins
CHECKED = 3  # steps after which the losses must still agree
FIRST, LATER = 1e-5, 1e-3  # relative: rounding alone, and what Adam makes of it


def main(argv: Sequence[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else list(argv)
    options = parse(argv)
    if options.allocator == "warm" and any(os.environ.get(k) != v for k, v in WARM.items()):
        sys.stdout.flush()
        again = [sys.executable, "-m", "benchmarks.training", *argv]
        os.execve(sys.executable, again, {**os.environ, **WARM})
    torch.set_num_threads(options.threads)
    if options.peak_of:
        print(json.dumps(peak(*options.peak_of, options)))
        return 0
    rows = [row for stream in options.stream for row in measure(stream, options)]
    print(table(rows))
    write(options, shlex.join(["python", "-m", "benchmarks.training", *argv]), rows)
    return 1 if any(row.refused for row in rows) else 0


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.training",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--stream", action="append", choices=sorted(STREAMS), help="repeatable; default: both")
    add("--size", choices=("default", "small"), default="default")
    add("--steps", type=int, default=7, help="timed steps of each, at least; default: 7")
    add("--allocator", choices=("default", "warm"), default="default")
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--threads", type=int, default=torch.get_num_threads())
    add("--no-memory", action="store_true", help="leave peak memory out")
    add("--json", type=Path, metavar="FILE", help="write machine, commit, command and rows there")
    add("--out", action="store_true", help="write JSON into benchmarks/results")
    add("--peak-of", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    options.stream = options.stream or list(STREAMS)
    if options.threads < 1 or options.steps < 1:
        parser.error("--threads and --steps must be at least 1")
    if options.out and options.size != "default":
        parser.error("--out: results are of the default size")
    check_machine(parser, options)
    return options


def losses(stream: str, maker: Maker, options: argparse.Namespace) -> tuple[float, float]:
    """Of the first step, and of the one after CHECKED more."""
    trained = STREAMS[stream][options.size].start(maker, options.device)
    found = [trained.step().item() for _ in range(CHECKED + 1)]
    return found[0], found[-1]


def disagreement(found: tuple[float, float], ours: tuple[float, float]) -> str | None:
    """None where both losses are those of ours."""
    for name, a, b, allowed in zip(("first", "later"), found, ours, (FIRST, LATER), strict=True):
        if not abs(a - b) <= allowed * abs(b):  # also when either is NaN
            return f"its {name} loss is {a:.6g}, not {b:.6g}"
    return None


def measure(stream: str, options: argparse.Namespace) -> list[Row]:
    problem = STREAMS[stream][options.size]
    rows, contenders = [], []
    ours: tuple[float, float] | None = None
    for maker in problem.makers(options.device):
        say(f"{stream}: {maker.name}")
        row = Row(PREFIX + stream, "step", problem.title, maker.name, maker.kind, 0, 0, 1.0)
        rows.append(row)
        try:
            found = losses(stream, maker, options)
        except Exception as error:  # one that cannot run is a row of the table
            row.refused = (
                f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            )
            continue
        ours = ours or found  # the first one
        row.refused = disagreement(found, ours)
        row.note = f"{found[0]:.5f}, after {CHECKED} steps {found[1]:.5f}"
        if row.refused is None:
            if not options.no_memory:
                row.peak_bytes = peak_elsewhere(stream, maker, options)
            contenders.append((row, maker))
        gc.collect()
    say(f"{stream}: the clock")
    calls = {row.provider: row for row, _ in contenders}
    found_times = timing.interleave(
        [
            timing.Contender(maker.name, _on_the_clock(stream, maker, options), nullcontext)
            for _, maker in contenders
        ],
        rounds=options.steps,
        block_s=timing.BLOCK_S,
        patience=timing.WAIT_S if options.size == "default" else 0.0,
        limit_s=float("inf"),
    )
    for name, result in found_times.items():
        row = calls[name]
        row.median_ms, row.low_ms, row.high_ms, row.least_ms = (1e3 * s for s in result[:4])
        row.samples, row.foreign, row.noisy, row.method = result[4:]
    return rows


def _on_the_clock(stream: str, maker: Maker, options: argparse.Namespace) -> Any:
    step = STREAMS[stream][options.size].start(maker, options.device).step
    if options.device == "cpu":
        return step

    def finished() -> None:
        step()
        torch.cuda.synchronize()

    return finished


def peak(stream: str, kind: str, options: argparse.Namespace) -> int | None:
    """Bytes that a step takes beyond what is there before it: weights, data and Adam's averages."""
    problem = STREAMS[stream][options.size]
    (maker,) = (maker for maker in problem.makers(options.device) if maker.kind == kind)
    step = problem.start(maker, options.device).step
    step()  # loads libraries, starts threads, makes Adam's averages
    gc.collect()
    return memory.peak(step, options.device)


def peak_elsewhere(stream: str, maker: Maker, options: argparse.Namespace) -> int | None:
    environment = {k: v for k, v in os.environ.items() if k not in WARM}
    if options.device == "cpu":
        environment |= memory.ENVIRONMENT
    words = ["--size", options.size, "--device", options.device, "--threads", str(options.threads)]
    command = [sys.executable, "-m", "benchmarks.training", *words, "--peak-of", stream, maker.kind]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, cwd=Path(__file__).parents[1]
    )
    if done.returncode != 0:
        say(f"    peak memory is left out: {done.stderr.strip().splitlines()[-1:]}")
        return None
    return json.loads(done.stdout)


def table(rows: Sequence[Row]) -> str:
    lines = [
        "| network | provider | ms a step (quartiles) | ours is faster | peak MB | losses |",
        "|---|---|--:|--:|--:|---|",
    ]
    for group in report.by_case(rows).values():
        ours = report.fastest(group, "ours")
        for row in group:
            name = f"{row.op.removeprefix(PREFIX)}, {row.case}"
            if row.median_ms is None:
                lines.append(f"| {name} | {row.provider} | not timed: {row.refused} | | | |")
                continue
            peak_mb = "-" if row.peak_bytes is None else f"{row.peak_bytes / 1e6:.0f}"
            lines.append(
                f"| {name} | {row.provider} | {row.median_ms:.3g}{'~' if row.noisy else ''} "
                f"({row.low_ms:.3g}-{row.high_ms:.3g}) | {faster(row, ours)} | {peak_mb} | "
                f"{row.note} |"
            )
    return "\n".join(lines)


def faster(row: Row, ours: Row | None) -> str:
    if ours is None or not ours.median_ms or row.median_ms is None:
        return "-"
    if row is ours:
        return "1"
    times = row.median_ms / ours.median_ms
    return f"{'▼' if times < 1 else ''}{times:.3g}x"


def write(options: argparse.Namespace, command: str, rows: Sequence[Row]) -> None:
    cache = "warm" if options.device == "cpu" else "as it comes"
    facts = report.environment(options.device, allocator_name(options), cache, command)
    content = {**facts, "complete": True, "ceiling": [], "rows": [row.as_dict() for row in rows]}
    targets = [options.json] if options.json else []
    if options.out:
        machine = facts.get("gpu", facts["cpu"]).split("@")[0].replace("(R)", "").split()
        where = [] if options.device == "cuda" else [f"{facts['threads']}t", options.allocator]
        name = "-".join([*machine, *where, "training"])
        collected.FOLDER.mkdir(exist_ok=True)
        targets.append(collected.FOLDER / f"{name}.json")
    for target in targets:
        target.write_text(json.dumps(content, indent=1) + "\n")
        say(f"wrote {target}")


if __name__ == "__main__":
    sys.exit(main())
