# SPDX-License-Identifier: Apache-2.0
"""How fast the ops are here, against plain PyTorch, compiled PyTorch and public peers.

    python -m benchmarks.run --quick                        the main cases, minutes
    python -m benchmarks.run --compiled --out               everything, into benchmarks/results
    python -m benchmarks.run --op uv_splat --case C64       some of it
    python -m benchmarks.run --allocator warm               glibc keeps and reuses its pages
    python -m benchmarks.run --quick --compare main         against another revision, side by side

Tables go to standard output, progress to standard error. Files (--json, --out) are written after
every case; until the last they are called NAME.partial.json. Ctrl-C leaves them.

A fresh 150 MB output costs more in page faults than most kernels take: every CPU number depends
on the allocator, so every table names it. "default" is the process as it was started; "warm"
starts it again with glibc told to keep what is freed, the state of a long training run whose
buffers are reused. Likewise the caches: "warm" calls with the same inputs again and again, as
far as they fit; "cold" finds them in memory.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

from . import memory, registry, report, roofline, timing
from .measuring import Clock, Session, measure
from .progress import Progress
from .record import Record
from .registry import Case
from .report import Row
from .revision import Unusable, another

WARM = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 36),
    "MALLOC_TOP_PAD_": str(256 << 20),
}
# What else changes the price of a fresh page.
_ALSO = ("LD_PRELOAD", "GLIBC_TUNABLES", "THP_MEM_ALLOC_ENABLE")
INTERRUPTED = 130  # the shell's number for a program that Ctrl-C ended


def main(argv: Sequence[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else list(argv)
    options = parse(argv)
    if options.allocator == "warm" and any(os.environ.get(k) != v for k, v in WARM.items()):
        sys.stdout.flush()
        again = [sys.executable, "-m", "benchmarks.run", *argv]
        os.execve(sys.executable, again, {**os.environ, **WARM})
    torch.set_num_threads(options.threads)
    problems = [(op, case) for op in options.op for case in selected(op, options)]
    if not problems:
        print("no case matches", file=sys.stderr)
        return 2
    try:
        with stopped_by_signals():
            if options.memory_only:
                return print_peaks(problems)
            return run(problems, options, argv)
    except KeyboardInterrupt:
        return INTERRUPTED
    except Unusable as error:
        print(error, file=sys.stderr)
        return 2


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """TERM ends the program as an exception does: what it has made for itself is removed."""

    def stop(number: int, frame: object) -> None:
        sys.exit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def run(problems: list[tuple[str, Case]], options: argparse.Namespace, argv: Sequence[str]) -> int:
    clock = Clock(
        options.rounds or (3 if options.quick else 7),
        1.0 if options.quick else timing.WAIT_S,
        options.limit or (5.0 if options.quick else timing.LIMIT_S),
    )
    command = shlex.join(["python", "-m", "benchmarks.run", *argv])
    facts = report.environment(options.device, allocator_name(options), options.cache, command)
    try:
        record = Record.of(options.json, results_stem(facts, options) if options.out else None)
    except OSError as error:
        say(str(error))
        return 2
    with ExitStack() as stack:
        revision = None
        if options.compare:
            revision = stack.enter_context(another(options.compare, options.threads, say))
            facts["compared"] = {"ref": options.compare, "commit": revision.name}
        peaks = memory.Peaks({}, [])
        if options.device == "cpu" and not options.no_memory:
            say("peak memory, in a process of its own")
            peaks = memory.elsewhere(argv, say)
        say("what the memory of this machine gives")
        ceiling = roofline.measure(options.device, rounds=clock.rounds, patience=clock.patience)
        facts["ceiling"] = ceiling.rows()
        text = report.header(facts, ceiling.rows())
        print(text, flush=True)
        # A call for the peak of memory, three or so here: the checks, and one on the clock.
        known = len(peaks.seconds) == len(problems)
        weights = [4 + 3 * s for s in peaks.seconds] if known else [1.0] * len(problems)
        progress = Progress(weights)
        session = Session(
            *(options.device, options.cache == "cold", options.compiled),
            *(ceiling, peaks, clock, revision, progress),
        )
        rows: list[Row] = []
        try:
            for number, (op, case) in enumerate(problems, 1):
                progress.begin(f"{op} {case.direction}: {case.title}")
                measured = measure(op, case, session)
                rows += measured
                progress.end()
                text += f"\n{report.case_table(measured)}"
                print(report.case_table(measured), flush=True)
                summary = f"## Summary\n\n{report.summary(rows)}\n"
                done = number == len(problems)
                try:
                    record.save(facts, rows, f"{text}\n{summary}", done)
                except OSError as error:
                    say(str(error))
                    if done:
                        return 1
        except BaseException:
            progress.clear()
            say(f"ended early: {progress.done} of {len(problems)} cases are measured")
            for path in record.written:
                say(f"they are in {path}")
            raise
    print(summary)
    for path in record.written:
        say(f"wrote {path}")
    return 0


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.run",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--op", action="append", choices=sorted(registry.MODULES), help="repeatable; default: all")
    add("--case", default="", help="only cases whose title or direction contains all these words")
    add("--quick", action="store_true", help="main cases, fewer samples")
    add("--compiled", action="store_true", help="torch.compile of the baselines too: minutes more")
    add("--allocator", choices=("default", "warm"), default="default")
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--cache", choices=("warm", "cold"), help="warm unless told on the CPU, cold on CUDA")
    add("--threads", type=int, default=torch.get_num_threads())
    add("--rounds", type=int, help="blocks per provider, 7 unless told (--quick: 3)")
    add("--no-memory", action="store_true", help="leave peak memory out")
    add(
        "--limit",
        type=float,
        metavar="S",
        help="seconds of a provider's slow calls on a case: "
        f"fewer samples beyond; {timing.LIMIT_S:.0f} unless told (--quick: 5)",
    )
    add(
        "--compare",
        metavar="REF",
        help="another git revision beside this one: built aside, timed in turns",
    )
    add("--json", type=Path, metavar="FILE", help="write machine, commit, command and rows there")
    add("--out", action="store_true", help="JSON, Markdown and CSV into benchmarks/results")
    add("--memory-only", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    options.op = options.op or list(registry.MODULES)
    options.cache = options.cache or ("warm" if options.device == "cpu" else "cold")
    if options.threads < 1 or (options.rounds is not None and options.rounds < 1):
        parser.error("--threads and --rounds must be at least 1")
    if options.limit is not None and not options.limit > 0:
        parser.error("--limit must be above 0")
    if options.compare and options.device != "cpu":
        parser.error("--compare: on the CPU only")
    check_machine(parser, options)
    return options


def check_machine(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no GPU here")
    if options.allocator == "warm" and (options.device != "cpu" or sys.platform != "linux"):
        parser.error("--allocator warm: a matter of glibc and CPU tensors")


def say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def allocator_name(options: argparse.Namespace) -> str:
    if options.device == "cuda":
        return "torch caching"
    also = [k for k in os.environ if k in _ALSO or (k.startswith("MALLOC_") and k not in WARM)]
    if options.allocator != "warm":
        also += [k for k in WARM if k in os.environ]
    return " ".join([options.allocator, *(f"{k}={os.environ[k]}" for k in sorted(also))])


def selected(op: str, options: argparse.Namespace) -> list[Case]:
    words = options.case.split()
    return [
        case
        for case in registry.load(op).CASES
        if (case.main or not options.quick)
        and all(word in f"{case.title} {case.direction}" for word in words)
    ]


def print_peaks(problems: list[tuple[str, Case]]) -> int:
    """What memory.elsewhere reads, a line per case: those before a violent end count."""
    progress = Progress([1.0] * len(problems))
    for op, case in problems:
        progress.begin(f"memory of {op} {case.direction}: {case.title}")
        began = time.perf_counter()
        found = memory.of_case(op, case)
        progress.end()
        seconds = time.perf_counter() - began
        print(json.dumps({"peaks": found, "seconds": seconds}), flush=True)
    return 0


def results_stem(facts: dict[str, Any], options: argparse.Namespace) -> Path:
    machine = facts.get("gpu", facts["cpu"]).split("@")[0].replace("(R)", "")
    name = "-".join([*machine.split(), f"{facts['threads']}t", options.allocator])
    if options.device == "cuda":
        name = "-".join(machine.split())
    name += "-cold" if options.device == "cpu" and options.cache == "cold" else ""
    name += "-main" if options.quick else ""  # some cases never replace all of them
    if set(options.op) != set(registry.MODULES):
        name += "-" + "-".join(options.op)
    if options.case:
        name += "-" + re.sub(r"[^\w.]+", "-", options.case)
    if options.compare:
        name += "-over-" + re.sub(r"[^\w.-]+", "-", options.compare)
    return Path(__file__).parent / "results" / name


if __name__ == "__main__":
    sys.exit(main())
