# SPDX-License-Identifier: Apache-2.0
"""Rows to Markdown tables and JSON, with everything that a number depends on beside it."""

from __future__ import annotations

import dataclasses
import datetime
import os
import platform
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

import pose_kernels as pk


@dataclasses.dataclass
class Row:
    """One provider on one case. Times in milliseconds; None: not measured."""

    op: str
    direction: str
    case: str
    provider: str
    kind: str
    bytes_moved: int
    flops: int
    ceiling_gb_s: float
    note: str = ""
    refused: str | None = None  # why it was not timed
    median_ms: float | None = None
    low_ms: float | None = None  # quartiles
    high_ms: float | None = None
    least_ms: float | None = None
    samples: int = 0
    foreign: float = 0.0
    noisy: bool = False
    method: str = ""
    peak_bytes: int | None = None
    result_bytes: int | None = None

    @property
    def gb_s(self) -> float | None:
        return None if self.median_ms is None else self.bytes_moved / self.median_ms / 1e6

    def as_dict(self) -> dict[str, Any]:
        share = None if self.gb_s is None else self.gb_s / self.ceiling_gb_s
        return {**dataclasses.asdict(self), "gb_s": self.gb_s, "share_of_ceiling": share}


def fastest(rows: Iterable[Row], kind: str) -> Row | None:
    timed = [row for row in rows if row.kind == kind and row.median_ms is not None]
    return min(timed, key=lambda row: row.median_ms or 0.0, default=None)


def by_case(rows: Sequence[Row]) -> dict[tuple[str, str, str], list[Row]]:
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.op, row.direction, row.case), []).append(row)
    return groups


def case_table(rows: Sequence[Row]) -> str:
    """Everybody on one case, the fastest of ours as the measure."""
    first, ours = rows[0], fastest(rows, "ours")
    lines = [
        f"### {first.op}, {first.direction}: {first.case}",
        "",
        f"moves {_mb(first.bytes_moved)} MB, {first.flops / 1e9:.2g} GFLOP; "
        f"the machine gives {first.ceiling_gb_s:.0f} GB/s at this size",
        "",
        "| provider | kind | median ms | quartiles | ours is faster | GB/s | of ceiling | "
        "peak / result MB |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        name = row.provider + (" *" if row.note else "")
        if row.refused is not None or row.median_ms is None:
            lines.append(f"| {name} | {row.kind} | not timed: {row.refused} | | | | | |")
            continue
        lines.append(
            f"| {name} | {row.kind} | {ms(row.median_ms)}{'~' if row.noisy else ''} | "
            f"{quartiles(row)} | {_times(row, ours)} | {row.gb_s:.3g} | "
            f"{_percent(row)} | {_mb(row.peak_bytes)} / {_mb(row.result_bytes)} |"
        )
    notes = dict.fromkeys(f"\\* {row.provider}: {row.note}" for row in rows if row.note)
    return "\n".join([*lines, "", *(f"{note}  " for note in notes), ""])


def summary(rows: Sequence[Row]) -> str:
    """One line per case: ours against the fastest of every kind."""
    kinds = {"eager": "eager", "smart": "smart", "compiled": "compiled", "peer": "best peer"}
    kinds |= {row.kind: row.provider for row in rows if row.kind == "earlier"}
    lines = [
        f"| op | case | ours ms (quartiles) | {' | '.join(f'over {k}' for k in kinds.values())} | "
        "GB/s | of ceiling | peak / result MB |",
        f"|---|---|--:|{'--:|' * len(kinds)}--:|--:|--:|",
    ]
    for (op, direction, case), group in by_case(rows).items():
        ours = fastest(group, "ours")
        if ours is None:
            lines.append(f"| {op} {direction} | {case} | not timed |{' |' * len(kinds)} | | |")
            continue
        ratios = [_times(fastest(group, kind), ours) for kind in kinds]
        lines.append(
            f"| {op} {direction} | {case} | {ms(ours.median_ms)}{'~' if ours.noisy else ''} "
            f"({quartiles(ours)}) | {' | '.join(ratios)} | {ours.gb_s:.3g} | "
            f"{_percent(ours)} | {_mb(ours.peak_bytes)} / {_mb(ours.result_bytes)} |"
        )
    lines += ["", "Over a kind: over its fastest provider, ▼ where ours loses, ~ where others "]
    lines[-1] += (
        "used the machine. Quartiles of all calls. Peak: beyond the inputs, results included."
    )
    return "\n".join(lines)


def _times(row: Row | None, ours: Row | None) -> str:
    if row is None or ours is None or not row.median_ms or not ours.median_ms:
        return "-"
    if row is ours:
        return "1"
    ratio = row.median_ms / ours.median_ms
    mark = "▼" if ratio < 1 else ""
    return f"{mark}{ratio:.2g}x" if ratio < 10 else f"{ratio:.0f}x"


def quartiles(row: Row) -> str:
    """Of very few samples, how few."""
    if row.samples in (1, 2):
        return "one call" if row.samples == 1 else "two calls"
    return f"{ms(row.low_ms)}-{ms(row.high_ms)}"


def ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def _mb(value: int | None) -> str:
    return "-" if value is None else f"{value / 1e6:.3g}" if value < 1e9 else f"{value / 1e6:.0f}"


def _percent(row: Row) -> str:
    return "-" if row.gb_s is None else f"{100 * row.gb_s / row.ceiling_gb_s:.0f} %"


def environment(device: str, allocator: str, cache: str, command: str) -> dict[str, Any]:
    """What the numbers hold for."""
    now = datetime.datetime.now(datetime.timezone.utc)
    found: dict[str, Any] = {
        "date": now.isoformat(timespec="seconds"),
        "command": command,
        "commit": _commit(),
        "pose_kernels": pk.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.platform(terse=True),
        "cpu": _cpu_model(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "allocator": allocator,
        "cache": cache,
    }
    if device == "cuda":
        properties = torch.cuda.get_device_properties(torch.cuda.current_device())
        found["gpu"] = properties.name
        found["gpu_memory_gb"] = round(properties.total_memory / 1e9)
        found["cuda"] = torch.version.cuda
    return found


def header(facts: dict[str, Any], ceiling: Sequence[dict[str, float]]) -> str:
    machine = facts.get("gpu") or f"{facts['cpu']}, {facts['threads']} threads"
    lines = [
        f"**{machine}; torch {facts['torch']}; allocator: {facts['allocator']}; "
        f"cache: {facts['cache']}; commit {facts['commit']}; {facts['date']}**  ",
        f"`{facts['command']}`",
        "",
        "| memory, MB | " + " | ".join(f"{row['megabytes']:.0f}" for row in ceiling) + " |",
        "|---" * (len(ceiling) + 1) + "|",
        "| copy GB/s | " + " | ".join(f"{row['copy_gb_s']:.0f}" for row in ceiling) + " |",
        "| fill GB/s | " + " | ".join(f"{row['fill_gb_s']:.0f}" for row in ceiling) + " |",
        "",
    ]
    return "\n".join(lines)


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _commit() -> str:
    """Short commit of the checkout, "+" after it where files differ from it."""

    def git(*words: str) -> str:
        folder = Path(__file__).parent
        done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        commit = git("rev-parse", "--short", "HEAD")
        return commit + ("+" if commit and git("status", "--porcelain") else "") or "unknown"
    except OSError:  # no git here
        return "unknown"
