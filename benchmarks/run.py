# SPDX-License-Identifier: Apache-2.0
"""How fast the ops are here, against plain PyTorch, compiled PyTorch and public peers.

    python -m benchmarks.run --quick                        the main cases, minutes
    python -m benchmarks.run --compiled --out               everything, into benchmarks/results
    python -m benchmarks.run --op uv_splat --case C64       some of it
    python -m benchmarks.run --allocator warm               glibc keeps and reuses its pages

Tables go to standard output, progress to standard error.

A fresh 150 MB output costs more in page faults than most kernels take: every CPU number depends
on the allocator, so every table names it. "default" is the process as it was started; "warm"
starts it again with glibc told to keep what is freed, the state of a long training run whose
buffers are reused. Likewise the caches: "warm" calls with the same inputs again and again, as
far as they fit; "cold" finds them in memory.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from . import agreement, memory, registry, report, roofline, timing
from .registry import Case, Provider
from .report import Row

WARM = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 36),
    "MALLOC_TOP_PAD_": str(256 << 20),
}
# What else changes the price of a fresh page.
_ALSO = ("LD_PRELOAD", "GLIBC_TUNABLES", "THP_MEM_ALLOC_ENABLE")
Peaks = dict[str, list[int | None]]


def main(argv: Sequence[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else list(argv)
    options = parse(argv)
    if options.allocator == "warm" and any(os.environ.get(k) != v for k, v in WARM.items()):
        sys.stdout.flush()
        again = [sys.executable, "-m", "benchmarks.run", *argv]
        os.execve(sys.executable, again, {**os.environ, **WARM})
    torch.set_num_threads(options.threads)
    rounds = options.rounds or (3 if options.quick else 7)
    patience = 1.0 if options.quick else timing.WAIT_S

    problems = [(op, case) for op in options.op for case in selected(op, options)]
    if not problems:
        print("no case matches", file=sys.stderr)
        return 2
    if options.memory_only:
        print(json.dumps({key: peak for op, case in problems for key, peak in peaks(op, case)}))
        return 0
    found: Peaks = {}
    if options.device == "cpu" and not options.no_memory:
        say("peak memory, in a process of its own")
        found = memory_elsewhere(argv)

    say("what the memory of this machine gives")
    ceiling = roofline.measure(options.device, rounds=rounds, patience=patience)
    command = shlex.join(["python", "-m", "benchmarks.run", *argv])
    facts = report.environment(options.device, allocator_name(options), options.cache, command)
    text = report.header(facts, ceiling.rows())
    print(text, flush=True)
    rows: list[Row] = []
    for number, (op, case) in enumerate(problems, 1):
        say(f"[{number}/{len(problems)}] {op} {case.direction}: {case.title}")
        measured = measure(op, case, options, ceiling, found, rounds, patience)
        rows += measured
        table = report.case_table(measured)
        text += "\n" + table
        print(table, flush=True)
    summary = f"## Summary\n\n{report.summary(rows)}\n"
    print(summary)
    write(options, facts, ceiling, rows, f"{text}\n{summary}")
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
    add("--json", type=Path, metavar="FILE", help="write machine, commit, command and rows there")
    add("--out", action="store_true", help="write JSON and Markdown into benchmarks/results")
    add("--memory-only", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    options.op = options.op or list(registry.MODULES)
    options.cache = options.cache or ("warm" if options.device == "cpu" else "cold")
    if options.threads < 1 or (options.rounds is not None and options.rounds < 1):
        parser.error("--threads and --rounds must be at least 1")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no GPU here")
    if options.allocator == "warm" and (options.device != "cpu" or sys.platform != "linux"):
        parser.error("--allocator warm: a matter of glibc and CPU tensors")
    return options


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


def contenders(module: ModuleType, case: Case, options: argparse.Namespace) -> list[Provider]:
    providers = [
        provider
        for provider in module.providers(case, options.device)
        if provider.gradients or case.direction == "forward"
    ]
    if options.compiled:
        torch._dynamo.reset()  # or its limit of recompilations is one for all cases
        providers += registry.compiled(providers)
    return providers


def unavailable(provider: Provider) -> str | None:
    if provider.available and importlib.util.find_spec(provider.available) is None:
        return f"{provider.available} is not installed"
    return None


def measure(
    op: str,
    case: Case,
    options: argparse.Namespace,
    ceiling: roofline.Ceiling,
    found: Peaks,
    rounds: int,
    patience: float,
) -> list[Row]:
    """Check every provider, then time those that agree."""
    module, cold = registry.load(op), options.cache == "cold"
    tensors = module.inputs(case, options.device)
    moved = module.bytes_moved(case)
    rows, ready, calls = [], {}, []
    for provider in contenders(module, case, options):
        row = Row(
            *(op, case.direction, case.title, provider.name, provider.kind),
            *(moved, module.flops(case), ceiling.at(moved), provider.note),
        )
        rows.append(row)
        row.refused = unavailable(provider) or check(module, case, provider, tensors)
        if row.refused is not None:
            say(f"    {provider.name}: {row.refused}")
            continue
        ready[provider.name] = row
        row.peak_bytes, row.result_bytes = found.get(_key(op, case, provider), (None, None))
        if options.device == "cuda":
            try:
                with provider.active():
                    call = registry.workload(module, case, provider, tensors)
                    row.result_bytes = memory.size_of(call())
                    row.peak_bytes = memory.peak(call, "cuda")
                _fill(row, cuda_timing(module, case, provider, tensors, rounds, cold))
            except RuntimeError as error:  # a capture that fails, memory that is not there
                row.refused = f"{type(error).__name__}: {str(error).splitlines()[0]}"
                say(f"    {provider.name}: {row.refused}")
        else:
            call = registry.workload(module, case, provider, tensors)
            calls.append(timing.Contender(provider.name, call, provider.active))
    agreement.forget()
    gc.collect()
    if calls:
        evict = timing.evictor() if cold else None
        timings = timing.interleave(calls, rounds=rounds, patience=patience, before=evict)
        for name, result in timings.items():
            _fill(ready[name], result)
    return rows


def check(
    module: ModuleType, case: Case, provider: Provider, tensors: dict[str, Tensor]
) -> str | None:
    try:
        return agreement.disagreement(module, case, provider, tensors)
    except Exception as error:  # one that cannot run is a row of the table, not the end of the run
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


def cuda_timing(
    module: ModuleType,
    case: Case,
    provider: Provider,
    tensors: dict[str, Tensor],
    rounds: int,
    cold: bool,
) -> timing.Timing:
    sets = timing.l2_sets(sum(x.nbytes for x in tensors.values())) if cold else 1

    def make_calls() -> list:
        return [
            # A cache sees addresses, not values: copies will do.
            registry.workload(module, case, provider, {k: x.clone() for k, x in tensors.items()})
            for _ in range(sets)
        ]

    capture = not provider.synchronizes
    return timing.cuda_timing(make_calls, provider.active, rounds=rounds, capture=capture)


def _fill(row: Row, result: timing.Timing) -> None:
    row.median_ms, row.low_ms, row.high_ms, row.least_ms = (1e3 * s for s in result[:4])
    row.samples, row.foreign, row.noisy, row.method = result[4:]


def _key(op: str, case: Case, provider: Provider) -> str:
    return " | ".join((op, case.direction, case.title, provider.name))


def peaks(op: str, case: Case) -> list[tuple[str, list[int | None]]]:
    """(key, [peak, result]) of every CPU provider of a case, torch.compile left out."""
    module, measured = registry.load(op), []
    tensors = module.inputs(case, "cpu")
    for provider in module.providers(case, "cpu"):
        forward_only = not provider.gradients and case.direction != "forward"
        if forward_only or unavailable(provider):
            continue
        call = registry.workload(module, case, provider, tensors)
        with provider.active():
            result = memory.size_of(call())  # also loads libraries and starts threads
            measured.append((_key(op, case, provider), [memory.peak(call, "cpu"), result]))
        del call
        gc.collect()
    return measured


def memory_elsewhere(argv: Sequence[str]) -> Peaks:
    environment = {k: v for k, v in os.environ.items() if k not in WARM} | memory.ENVIRONMENT
    words = [word for word in argv if word != "--compiled"] + ["--memory-only"]
    command = [sys.executable, "-m", "benchmarks.run", *words, "--allocator", "default"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        say(f"peak memory is left out: {done.stderr.strip().splitlines()[-1:]}")
        return {}
    return json.loads(done.stdout)


def write(
    options: argparse.Namespace,
    facts: dict[str, Any],
    ceiling: roofline.Ceiling,
    rows: Sequence[Row],
    text: str,
) -> None:
    content = {**facts, "ceiling": ceiling.rows(), "rows": [row.as_dict() for row in rows]}
    targets = [options.json] if options.json else []
    if options.out:
        machine = facts.get("gpu", facts["cpu"]).split("@")[0].replace("(R)", "")
        name = "-".join([*machine.split(), f"{facts['threads']}t", options.allocator])
        if options.device == "cuda":
            name = "-".join(machine.split())
        name += "-cold" if options.device == "cpu" and options.cache == "cold" else ""
        folder = Path(__file__).parent / "results"
        folder.mkdir(exist_ok=True)
        targets.append(folder / f"{name}.json")
        (folder / f"{name}.md").write_text(text)
    for target in targets:
        target.write_text(json.dumps(content, indent=1) + "\n")
        say(f"wrote {target}")


if __name__ == "__main__":
    sys.exit(main())
