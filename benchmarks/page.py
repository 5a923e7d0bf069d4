# SPDX-License-Identifier: Apache-2.0
"""docs/performance.md, its pictures and the table of README.md, from the committed results.

    python -m benchmarks.page             write them (the pictures need matplotlib)
    python -m benchmarks.page --check     1 where what is written is not what the results give

The prose is in page_template.md, the goals and the reasons of those missed in goals.py; every
measured number comes from benchmarks/results/*.json.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from . import collected, goals, plot, registry, report, training
from .collected import Run, Section
from .verdicts import goal_tables, measured_ms, scaled

ROOT = Path(__file__).parents[1]
PAGE, README, IMAGES = Path("docs/performance.md"), Path("README.md"), Path("docs/images")
TEMPLATE = Path(__file__).with_name("page_template.md")
BEGIN, END = "<!-- benchmarks: begin -->", "<!-- benchmarks: end -->"
SCATTER = 1.5  # upper over lower quartile: from here on a row is called scattered
_WARM_CPU = ("cpu", "warm", "warm")  # device, allocator and cache of the README's table


def split(sections: Iterable[Section], steps: bool) -> list[Section]:
    """Only the training steps, or only the rest."""
    found = []
    for section in sections:
        rows = {k: v for k, v in section.rows.items() if k[0].startswith(training.PREFIX) == steps}
        if rows:
            found.append(Section(section.place, rows))
    return found


def title(section: Section) -> str:
    device, machine, allocator, cache = section.place
    words = [f"allocator `{allocator}`"] if device == "cpu" else []
    return ", ".join([machine, *words, f"cache {cache}"])


def origin(run: Run) -> str:
    """Which command gave a table, on what."""
    facts = run.facts
    software = f"torch {facts['torch']}, Python {facts['python']}, {facts['system']}"
    if facts.get("cuda"):
        software += f", CUDA {facts['cuda']}"
    return (
        f"`{facts['command']}`  \n"
        f"commit {facts['commit']}, {facts['date'][:10]}; {software} "
        f"([every row](../benchmarks/results/{run.name}.json))"
    )


def memory_speed(run: Run) -> str:
    rows = run.facts.get("ceiling") or []
    if not rows:
        return ""
    steps = [
        f"{row['copy_gb_s']:.0f} and {row['fill_gb_s']:.0f} at {row['megabytes']:.0f} MB"
        for row in rows
    ]
    return f"Copy and fill, GB/s: {', '.join(steps)}."


def table(rows: Sequence[report.Row]) -> str:
    """report.summary without its legend, which the page gives once."""
    return "\n".join(x for x in report.summary(rows).splitlines() if x.startswith("|"))


def legend() -> str:
    return "\n".join(x for x in report.summary([]).splitlines() if x and not x.startswith("|"))


def place_part(section: Section) -> str:
    parts = [f"## {title(section)}", memory_speed(section.runs[0])]
    if pictured(section):
        parts.append(
            f"![Times faster than every kind of rival, by case](images/{picture(section)})"
        )
    for run in section.in_order:
        parts += [origin(run), table(section.of(run))]
    wide = scattered(section)
    if wide:
        parts.append(f"Scattered, quartiles more than a factor of {SCATTER} apart: {wide}.")
    ops = {op for op, _, _ in section.rows}
    absent = [f"`{op}`" for op in registry.MODULES if op not in ops]
    if absent:
        parts.append(f"No result here yet: {', '.join(absent)}.")
    return "\n\n".join(part for part in parts if part)


def scattered(section: Section) -> str:
    found = []
    for (op, direction, case), (_, rows) in section.rows.items():
        ours = report.fastest(rows, "ours")
        if ours is not None and ours.low_ms and (ours.high_ms or 0) > SCATTER * ours.low_ms:
            found.append(f"{op} {direction} ({case})")
    return "; ".join(found)


def losses_part(sections: Sequence[Section]) -> str:
    lines = []
    for section in sections:
        for ours, rival in collected.losses(section):
            lines.append(
                f"| {ours.op} {ours.direction} | {ours.case} | {title(section)} | "
                f"{measured_ms(ours)} | {rival.provider} ({rival.kind}) | {measured_ms(rival)} | "
                f"{scaled((rival.median_ms or 0) / (ours.median_ms or 1))} |"
            )
    if not lines:
        return "Nowhere: no rival is faster in any of the rows above and below."
    head = "| op | case | where | ours ms | rival | its ms | its time over ours |"
    words = f"Every row of this page in which a rival's median is below ours: {len(lines)}."
    return "\n".join([words, "", head, "|---|---|---|--:|---|--:|--:|", *lines])


def training_part(sections: Sequence[Section]) -> str:
    if not sections:
        return "**Not measured: there is no result file yet.**"
    parts = []
    for section in sections:
        parts.append(f"### {title(section)}")
        for run in section.runs:
            parts += [origin(run), training.table(section.of(run))]
    return "\n\n".join(parts)


def unused(runs: Sequence[Run], sections: Sequence[Section]) -> str:
    used = {run.name for section in sections for run in section.runs}
    lines = []
    for run in runs:
        if not run.complete:
            lines.append(
                f"* `{run.name}.json` is of a run that was not finished: not on this page."
            )
        elif run.name not in used:
            lines.append(f"* `{run.name}.json`: newer runs have measured all of its cases anew.")
    return "\n".join(lines)


def page(runs: Sequence[Run]) -> str:
    sections = collected.sections(runs)
    ops, networks = split(sections, steps=False), split(sections, steps=True)
    places = [place_part(section) for section in ops] or ["**There are no results.**"]
    parts = {
        "LEGEND": legend(),
        "PLACES": "\n\n".join([*places, unused(runs, sections)]).rstrip(),
        "GOALS": goal_tables(ops),
        "LOSSES": losses_part([*ops, *networks]),
        "TRAINING": training_part(networks),
    }
    text = TEMPLATE.read_text()
    for name, part in parts.items():
        if text.count(f"@{name}@") != 1:
            raise ValueError(f"page_template.md must contain @{name}@ once")
        text = text.replace(f"@{name}@", part)
    return text


def front(runs: Sequence[Run]) -> str:
    """The README's table, of the CPU that has most of its cases; of several, the newest."""
    places = [
        section
        for section in split(collected.sections(runs), steps=False)
        if (section.place.device, section.place.allocator, section.place.cache) == _WARM_CPU
    ]
    if not places:
        return "There are no results yet."

    def known(section: Section) -> tuple[int, str]:
        found = [section.find(*case) for _, *case in goals.FRONT]
        return len([x for x in found if x is not None]), section.runs[0].facts["date"]

    section = max(places, key=known)
    lines = [
        "| op | ours | faster than the obvious PyTorch | than the best PyTorch we know | "
        "than the best peer |",
        "|---|--:|--:|--:|--:|",
    ]
    used: dict[str, Run] = {}
    memory = ""
    for name, op, direction, words in goals.FRONT:
        found = section.find(op, direction, words)
        if found is None:
            lines.append(f"| {name} | not measured | | | |")
            continue
        run, rows = found
        used[run.name] = run
        ours, eager = report.fastest(rows, "ours"), report.fastest(rows, "eager")
        peer = report.fastest(rows, "peer")
        cells = [_front_ratio(rows, kind) for kind in ("eager", "smart", "peer")]
        cells[-1] += f" ({peer.provider})" if peer is not None else ""
        lines.append(f"| {name} | {measured_ms(ours) if ours else '-'} ms | {' | '.join(cells)} |")
        if not memory and ours and eager and ours.peak_bytes and eager.peak_bytes:
            memory = (
                f" {name} takes {ours.peak_bytes / 1e6:.0f} MB where the obvious code takes "
                f"{eager.peak_bytes / 1e6:.0f}."
            )
    torches = sorted({run.facts["torch"] for run in used.values()})
    dates = sorted({run.facts["date"][:10] for run in used.values()})
    files = ", ".join(f"[{name}](benchmarks/results/{name}.json)" for name in used)
    lines += ["", f"{section.place.machine}; torch {', '.join(torches)}; {' to '.join(dates)}:"]
    lines[-1] += f" medians from {files}.{memory}"
    return "\n".join(lines)


def _front_ratio(rows: list[report.Row], kind: str) -> str:
    value = collected.ratio(rows, kind)
    return "-" if value is None else f"{value:.2g}×" if value < 10 else f"{value:.0f}×"


def readme(text: str, runs: Sequence[Run]) -> str:
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ValueError(f"README.md must contain {BEGIN} and {END} once")
    pattern = f"{re.escape(BEGIN)}.*{re.escape(END)}"
    return re.sub(pattern, lambda _: f"{BEGIN}\n\n{front(runs)}\n\n{END}", text, flags=re.DOTALL)


def pictured(section: Section) -> list[report.Row]:
    """The rows of the cases that goals are set for."""
    found = {}
    for goal in [*goals.CPU, *goals.halves(), *goals.GPU]:
        if goal.device == section.place.device and not goal.unmeasured:
            if goal.device == "cuda" or goal.allocator == section.place.allocator:
                at = section.find(goal.op, goal.direction, goal.words)
                if at is not None:
                    found[id(at[1])] = at[1]
    return [row for rows in found.values() for row in rows]


def picture(section: Section) -> str:
    words = re.sub(r"[^a-z0-9.]+", "-", " ".join(section.place).lower().replace("(r)", ""))
    return f"speed-{words.strip('-')}.svg"


def content(section: Section) -> dict[str, Any]:
    """What plot.draw draws, with a fingerprint of it that the picture carries."""
    rows = [row.as_dict() for row in pictured(section)]
    ratios = [
        [*case, {kind: f"{value:.3g}" for kind, value in kinds.items()}]
        for case, kinds in plot.ratios(rows).items()
    ]
    facts = section.runs[0].facts
    digest = hashlib.sha256(json.dumps([ratios, section.place]).encode()).hexdigest()[:16]
    return {**facts, "rows": rows, "description": f"drawn from {digest}"}


def texts(root: Path, runs: Sequence[Run]) -> dict[Path, str]:
    return {PAGE: page(runs), README: readme((root / README).read_text(), runs)}


def pictures(runs: Sequence[Run]) -> dict[Path, dict[str, Any]]:
    sections = split(collected.sections(runs), steps=False)
    return {IMAGES / picture(s): content(s) for s in sections if pictured(s)}


def stale(root: Path, runs: Sequence[Run]) -> list[str]:
    """What differs from what the results give."""
    found = [
        f"{path} is not what the results give"
        for path, text in texts(root, runs).items()
        if not (root / path).exists() or (root / path).read_text() != text
    ]
    wanted = pictures(runs)
    for path, drawn in wanted.items():
        if not (root / path).exists() or drawn["description"] not in (root / path).read_text():
            found.append(f"{path} is not drawn from the results")
    return found + [f"{path} is of no results" for path in strangers(root, wanted)]


def strangers(root: Path, wanted: Iterable[Path]) -> list[Path]:
    there = {path.relative_to(root) for path in (root / IMAGES).glob("speed-*.svg")}
    return sorted(there - set(wanted))


def write(root: Path, runs: Sequence[Run]) -> int:
    for path, text in texts(root, runs).items():
        (root / path).write_text(text)
    wanted = pictures(runs)
    for path in strangers(root, wanted):
        (root / path).unlink()
    try:
        for path, drawn in wanted.items():
            plot.draw(drawn, root / path)
    except ImportError:
        print("matplotlib is needed for the pictures: pip install matplotlib", file=sys.stderr)
        return 2
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.page",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--check", action="store_true", help="write nothing, compare")
    options = parser.parse_args(argv)
    runs = collected.load()
    if not options.check:
        return write(ROOT, runs)
    found = stale(ROOT, runs)
    for line in found:
        print(f"{line}: python -m benchmarks.page", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
