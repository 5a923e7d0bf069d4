# SPDX-License-Identifier: Apache-2.0
"""How long a training step of a whole network takes, with our kernels and with plain PyTorch.

    python -m benchmarks.training                        everything, minutes
    python -m benchmarks.training --allocator warm --out   into benchmarks/results
    python -m benchmarks.training --quick                  fewer samples
    python -m benchmarks.training --size small --steps 2   seconds

Two small networks are in streams.py, whole systems in systems.py. Everybody starts from the same
weights, and before the clock runs the losses of the first step and after a few more must agree with
ours; who disagrees is not timed, and the command ends with 1. A step is forward, backward and Adam.
Of a system, the calls that its ops get in a step are timed without the rest of it too. Peak memory
is that of a step, beyond what the process held before it, each in a process of its own (memory.py).

Files (--json, --out) are written after every network; until the last they are called
NAME.partial.json.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from . import collected, memory, report, timing
from .record import Record
from .report import Row
from .run import INTERRUPTED, WARM, allocator_name, check_machine, say, stopped_by_signals
from .streams import STREAMS, Maker, Trained
from .systems import SYSTEMS

NETWORKS = {**STREAMS, **SYSTEMS}
PREFIX = "training "  # how the op of a row begins
STEP, ALONE = "step", "ops of a step"  # directions


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
    try:
        with stopped_by_signals():
            return run(options, shlex.join(["python", "-m", "benchmarks.training", *argv]))
    except KeyboardInterrupt:
        return INTERRUPTED


def run(options: argparse.Namespace, command: str) -> int:
    cache = "warm" if options.device == "cpu" else "as it comes"
    facts = report.environment(options.device, allocator_name(options), cache, command)
    facts["ceiling"] = []
    rows: list[Row] = []
    try:
        record = record_of(options, facts)
        for name in options.stream:
            rows += measure(name, options)
            record.save(facts, rows, "", done=name == options.stream[-1])
    except OSError as error:
        say(str(error))
        return 2
    print(table(rows))
    for path in record.written:
        say(f"wrote {path}")
    return 1 if any(row.refused for row in rows) else 0


def record_of(options: argparse.Namespace, facts: dict[str, Any]) -> Record:
    """Raises OSError when a folder cannot be written into: before the work."""
    found = [options.json] if options.json else []
    if options.out:
        machine = facts.get("gpu", facts["cpu"]).split("@")[0].replace("(R)", "").split()
        where = [] if options.device == "cuda" else [f"{facts['threads']}t", options.allocator]
        some = [] if set(options.stream) == set(NETWORKS) else options.stream
        found.append(collected.FOLDER / f"{'-'.join([*machine, *where, 'training', *some])}.json")
    return Record({k: v for file in found for k, v in Record.of(file, None).targets.items()})


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.training",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--stream", action="append", choices=list(NETWORKS), help="repeatable; default: all")
    add("--size", choices=("default", "small"), default="default")
    add("--quick", action="store_true", help="fewer samples")
    add("--steps", type=int, help="timed steps of each, 7 unless told (--quick: 3)")
    add(
        "--limit",
        type=float,
        metavar="S",
        help="seconds of slow steps: fewer samples beyond; 25 unless told (--quick: 5)",
    )
    add("--allocator", choices=("default", "warm"), default="default")
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--threads", type=int, default=torch.get_num_threads())
    add("--no-memory", action="store_true", help="leave peak memory out")
    add("--json", type=Path, metavar="FILE", help="write machine, commit, command and rows there")
    add("--out", action="store_true", help="write JSON into benchmarks/results")
    add("--peak-of", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    options.stream = list(dict.fromkeys(options.stream or NETWORKS))
    if options.steps is None:
        options.steps = 3 if options.quick else 7
    if options.limit is None:
        options.limit = 5.0 if options.quick else 25.0
    if options.threads < 1 or options.steps < 1:
        parser.error("--threads and --steps must be at least 1")
    if not options.limit > 0:
        parser.error("--limit must be above 0")
    if options.out and (options.size != "default" or options.quick):
        parser.error("--out: results are of the default size, and not of --quick")
    check_machine(parser, options)
    return options


class Losses(NamedTuple):
    """Of the first step, and of the one after so many more; every term of them.

    allowed: relative differences of both.
    """

    names: list[str]
    first: list[float]
    later: list[float]
    steps: int
    allowed: tuple[float, float]

    def __str__(self) -> str:
        def listed(values: list[float]) -> str:
            words = (f"{name} {x:.5g}" for name, x in zip(self.names, values, strict=True))
            return ", ".join(words).strip()

        after = f"after {self.steps} step{'s' if self.steps > 1 else ''}"
        joint = "; " if len(self.names) > 1 else ", "
        return f"{listed(self.first)}{joint}{after} {listed(self.later)}"


def losses(stream: str, maker: Maker, options: argparse.Namespace) -> Losses:
    trained = NETWORKS[stream][options.size].start(maker, options.device)
    with trained.active():
        found = [trained.step().reshape(-1).tolist() for _ in range(trained.checked + 1)]
    return Losses(list(trained.names), found[0], found[-1], trained.checked, trained.allowed)


def disagreement(found: Losses, ours: Losses) -> str | None:
    """None where all losses are those of ours."""
    if found.names != ours.names:
        return f"its losses are {', '.join(found.names)}, not {', '.join(ours.names)}"
    for when, allowed in zip(("first", "later"), ours.allowed, strict=True):
        pairs = zip(ours.names, getattr(found, when), getattr(ours, when), strict=True)
        for name, a, b in pairs:
            if not abs(a - b) <= allowed * abs(b):  # also when either is NaN
                which = f"{when} {name}".strip()
                return f"its {which} loss is {a:.6g}, not {b:.6g}"
    return None


def measure(stream: str, options: argparse.Namespace) -> list[Row]:
    problem = NETWORKS[stream][options.size]
    rows, agreed = [], []
    ours: Losses | None = None
    for maker in problem.makers(options.device):
        say(f"{stream}: {maker.name}")
        row = Row(PREFIX + stream, STEP, problem.title, maker.name, maker.kind, 0, 0, 1.0)
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
        row.note = str(found)
        if row.refused is None:
            if not options.no_memory:
                row.peak_bytes = peak_elsewhere(stream, maker, options)
            agreed.append((row, maker))
        gc.collect()
    say(f"{stream}: the clock")
    started = [(row, problem.start(maker, options.device)) for row, maker in agreed]
    on_the_clock([(row, trained, trained.step) for row, trained in started], options)
    alone: list[tuple[Row, Trained, Callable[[], Any]]] = []
    for row, trained in started:
        if trained.alone is not None:
            with trained.active():
                call = trained.alone()
            rows.append(Row(row.op, ALONE, row.case, row.provider, row.kind, 0, 0, 1.0))
            alone.append((rows[-1], trained, call))
    on_the_clock(alone, options)
    return rows


def on_the_clock(
    calls: Sequence[tuple[Row, Trained, Callable[[], Any]]], options: argparse.Namespace
) -> None:
    """Time the calls in turns, into their rows."""

    def finished(call: Callable[[], Any]) -> None:
        call()
        torch.cuda.synchronize()

    found = timing.interleave(
        [
            timing.Contender(
                row.provider,
                call if options.device == "cpu" else partial(finished, call),
                trained.active,
            )
            for row, trained, call in calls
        ],
        rounds=options.steps,
        block_s=timing.BLOCK_S,
        patience=timing.WAIT_S if options.size == "default" and not options.quick else 0.0,
        limit_s=options.limit,
    )
    for row, _, _ in calls:
        result = found[row.provider]
        row.median_ms, row.low_ms, row.high_ms, row.least_ms = (1e3 * s for s in result[:4])
        row.samples, row.foreign, row.noisy, row.method = result[4:]


def peak(stream: str, kind: str, options: argparse.Namespace) -> int | None:
    """Bytes that a step takes beyond what is there before it: weights, data and Adam's averages."""
    problem = NETWORKS[stream][options.size]
    (maker,) = (maker for maker in problem.makers(options.device) if maker.kind == kind)
    trained = problem.start(maker, options.device)
    with trained.active():
        trained.step()  # loads libraries, starts threads, makes Adam's averages
        gc.collect()
        return memory.peak(trained.step, options.device)


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
            name += f": {row.direction}" if row.direction != STEP else ""
            if row.median_ms is None:
                lines.append(f"| {name} | {row.provider} | not timed: {row.refused} | | | |")
                continue
            peak_mb = "-" if row.peak_bytes is None else f"{row.peak_bytes / 1e6:.0f}"
            lines.append(
                f"| {name} | {row.provider} | {report.ms(row.median_ms)}{'~' if row.noisy else ''} "
                f"({report.quartiles(row)}) | {faster(row, ours)} | {peak_mb} | "
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


if __name__ == "__main__":
    sys.exit(main())
