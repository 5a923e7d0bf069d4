# SPDX-License-Identifier: Apache-2.0
"""The goals held against the results: met, missed and why, or without a result."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from . import collected, goals
from .collected import Run, Section
from .goals import Goal
from .report import Row, fastest

NO_REASON = "**no reason is known yet**"
ONE_MODE = (
    "The goal of the deterministic mode, at most 1.5 times the time of a faster unordered one, has "
    "nothing to be measured against: the compiled kernels have one mode, and it is deterministic."
)
KINDS = ("eager", "smart", "peer")


class Criterion(NamedTuple):
    """One number of a goal."""

    name: str  # what it is called where it is missed
    goal: str
    measured: str
    reached: bool | None  # None: nothing to compare with


class Verdict(NamedTuple):
    goal: Goal
    case: str
    criteria: list[Criterion]
    outcome: str  # "met", "met where measured", "missed", "missed in ms", "no result"


def scaled(value: float) -> str:
    return f"{value:.3g}x" if value < 100 else f"{value:.0f}x"


def milliseconds(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def duration(ms: float) -> str:
    return f"{milliseconds(ms)} ms" if ms >= 0.1 else f"{1000 * ms:.3g} µs"


def measured_ms(row: Row) -> str:
    return f"{milliseconds(row.median_ms or 0)}{'~' if row.noisy else ''}"


def judge(goal: Goal, sections: Sequence[Section]) -> Verdict:
    """The goal against the newest result of its case on one machine."""
    found = None
    for section in sections:
        place = section.place
        if place.device == goal.device and place.allocator == goal.allocator:
            if place.device == "cuda" or place.cache == "warm":
                found = found or section.find(goal.op, goal.direction, goal.words)
    if goal.unmeasured or found is None or fastest(found[1], "ours") is None:
        criteria = list(_criteria(goal, None, []))
        return Verdict(
            goal, found[1][0].case if found else goal.words.strip(","), criteria, "no result"
        )
    run, rows = found
    criteria = list(_criteria(goal, run, rows))
    missed = [c.name for c in criteria if c.reached is False]
    if not missed:
        whole = all(c.reached for c in criteria)
        return Verdict(goal, rows[0].case, criteria, "met" if whole else "met where measured")
    # A goal that names nothing but milliseconds is missed when they are.
    others = any(c.reached for c in criteria if c.name != "ms")
    outcome = "missed in ms" if missed == ["ms"] and others else "missed"
    return Verdict(goal, rows[0].case, criteria, outcome)


def _criteria(goal: Goal, run: Run | None, rows: list[Row]) -> Iterable[Criterion]:
    ours = fastest(rows, "ours")
    for kind in KINDS:
        wanted = getattr(goal, kind)
        if wanted is not None:
            value = collected.ratio(rows, kind)
            yield _criterion(
                *(f"over {kind}", f"{scaled(wanted)} {kind}", value),
                lambda v, kind=kind: f"{scaled(v)} {kind}",
                lambda v, wanted=wanted: v >= wanted,
            )
    if goal.ms is not None:
        value = None if ours is None else ours.median_ms
        yield _criterion(
            *("ms", duration(goal.ms), value),
            duration,
            lambda v: v <= (goal.ms or 0),
        )
    gb_s = None if ours is None else ours.gb_s
    if goal.share is not None:
        value = None if ours is None or gb_s is None else gb_s / ours.ceiling_gb_s
        yield _share(goal.share, value, "of the ceiling")
    if goal.fill is not None:
        speed = None if run is None or ours is None else run.fill_gb_s(ours.bytes_moved)
        value = None if speed is None or gb_s is None else gb_s / speed
        yield _share(goal.fill, value, "of a fill")


def _share(wanted: float, value: float | None, of: str) -> Criterion:
    return _criterion(
        *(of, f"{100 * wanted:.0f} % {of}", value),
        lambda v: f"{100 * v:.0f} % {of}",
        lambda v: v >= wanted,
    )


def _criterion(
    name: str,
    goal: str,
    value: float | None,
    show: Callable[[float], str],
    reached: Callable[[float], bool],
) -> Criterion:
    if value is None:
        return Criterion(name, goal, "-", None)
    return Criterion(name, goal, show(value), reached(value))


def words(verdict: Verdict) -> str:
    """The last column of the table."""
    goal, _, criteria, outcome = verdict
    if outcome == "met":
        return "met"
    if outcome == "met where measured":
        absent = [c.name for c in criteria if c.reached is None]
        return f"met; {', '.join(absent)}: not measured"
    if outcome == "no result":
        return f"**no result**{': ' + goal.unmeasured if goal.unmeasured else ''}"
    missed = ", ".join(c.name for c in criteria if c.reached is False)
    if outcome == "missed in ms":
        own = f"; {goal.reason}" if goal.reason else ""
        return f"missed in ms (of a faster machine); the rest is reached{own}"
    return f"**missed** ({missed}): {goal.reason or NO_REASON}"


def row(verdict: Verdict) -> str:
    goal, case, criteria, outcome = verdict
    aims = ", ".join(c.goal for c in criteria)
    found = "-" if outcome == "no result" else ", ".join(c.measured for c in criteria)
    if goal.allocator == "default":
        case += "; `default`"
    return f"| {goal.op} {goal.direction} | {case} | {aims} | {found} | {words(verdict)} |"


def count(verdicts: Sequence[Verdict]) -> str:
    found = Counter(verdict.outcome for verdict in verdicts)
    met = found["met"] + found["met where measured"]
    rest = [f"{found[x]} {x}" for x in ("missed in ms", "missed")] + [
        f"{found['no result']} without a result"
    ]
    return f"{len(verdicts)} goals: {met} met, {', '.join(rest)}."


def goal_table(verdicts: Sequence[Verdict]) -> str:
    head = ["| op | case | goal | measured | |", "|---|---|---|---|---|"]
    return "\n".join([count(verdicts), "", *head, *map(row, verdicts)])


def triton(sections: Sequence[Section]) -> str:
    """The goal of the Triton kernels: not much slower than CUDA."""
    times = []
    for section in sections:
        for key, (_, rows) in section.rows.items():
            by = {row.provider: row.median_ms for row in rows if row.median_ms}
            if "ours, triton" in by and "ours, cuda" in by:
                times.append((by["ours, triton"] / by["ours, cuda"], " ".join(key)))
    aim = f"Triton, goal: at most {goals.TRITON} times the time of CUDA in every case. "
    if not times:
        return aim + "**Not measured.**"
    over = sorted((x for x in times if x[0] > goals.TRITON), reverse=True)
    listed = "; ".join(f"{case} {scaled(value)}" for value, case in over)
    return f"{aim}{len(times)} cases measured, {len(over)} above it{': ' if over else ''}{listed}."


def goal_tables(sections: Sequence[Section]) -> str:
    """For every machine of two threads and every GPU, all of its goals."""
    parts = []
    places = {(s.place.device, s.place.machine): None for s in sections}
    two = [m for d, m in places if d == "cpu" and m.endswith(", 2 threads")]
    for machine in two or ["CPU, 2 threads"]:
        own = [s for s in sections if s.place.machine == machine]
        warm = [judge(goal, own) for goal in goals.CPU]
        default = [judge(goal, own) for goal in goals.halves()]
        parts += [
            f"### {machine}",
            "The CPU goals are for two threads. They were set on another machine (AMD Zen 4, which "
            "fills 151 MB in 5 ms): their ratios and shares are comparable, their milliseconds "
            "are not. Memory kept, unless a row of `default` says otherwise:",
            goal_table(warm),
            "With PyTorch's own allocator at least half of each ratio over eager must be left:",
            goal_table(default),
        ]
    gpus = [m for d, m in places if d == "cuda"]
    for machine in gpus or ["H200"]:
        own = [s for s in sections if s.place.machine == machine]
        if own:
            words_first = "The GPU goals are computed for an H200, from bytes over bandwidth."
        else:
            words_first = "**Not measured: there is no GPU result file yet.** The goals:"
        verdicts = [judge(goal, own) for goal in goals.GPU]
        parts += [f"### {machine}", words_first, goal_table(verdicts), triton(own), ONE_MODE]
    return "\n\n".join(parts)
