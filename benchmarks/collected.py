# SPDX-License-Identifier: Apache-2.0
"""The committed result files: which rows of them are the present ones.

A place is where numbers can be compared: machine and threads, allocator, cache, device. There, the
rows of an (op, direction, case) are those of the newest finished run that has it.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from .report import Row, by_case, fastest

FOLDER = Path(__file__).parent / "results"
_FIELDS = {field.name for field in dataclasses.fields(Row)}
RIVALS = ("eager", "smart", "compiled", "peer")
Key = tuple[str, str, str]  # op, direction, title


class Place(NamedTuple):
    device: str
    machine: str
    allocator: str
    cache: str


@dataclasses.dataclass(frozen=True)
class Run:
    """One result file."""

    name: str
    facts: dict[str, Any]  # of the machine and the run: report.environment
    groups: dict[Key, list[Row]]

    @property
    def complete(self) -> bool:
        return bool(self.facts.get("complete", True))

    @property
    def place(self) -> Place:
        device = "cuda" if self.facts.get("gpu") else "cpu"
        machine = self.facts.get("gpu") or f"{self.facts['cpu']}, {self.facts['threads']} threads"
        return Place(device, machine, self.facts["allocator"], self.facts["cache"])

    def fill_gb_s(self, moved: int) -> float | None:
        """What a fill of about this many bytes gave on the machine, in this run."""
        sizes = self.facts.get("ceiling") or []
        if not sizes or moved <= 0:
            return None
        size = min(sizes, key=lambda s: abs(math.log(s["megabytes"] * 1e6 / moved)))
        return size["fill_gb_s"]


@dataclasses.dataclass
class Section:
    """A place, and what is known of it."""

    place: Place
    rows: dict[Key, tuple[Run, list[Row]]]

    @property
    def runs(self) -> list[Run]:
        """Those that gave a row, newest first."""
        found = {run.name: run for run, _ in self.rows.values()}
        return sorted(found.values(), key=lambda run: run.facts["date"], reverse=True)

    @property
    def in_order(self) -> list[Run]:
        """The same, those with most cases first."""
        count = Counter(run.name for run, _ in self.rows.values())
        return sorted(self.runs, key=lambda run: -count[run.name])

    def of(self, run: Run) -> list[Row]:
        return [row for source, rows in self.rows.values() if source is run for row in rows]

    def find(self, op: str, direction: str, words: str) -> tuple[Run, list[Row]] | None:
        """Of the cases whose title contains all the words, the one with the shortest title."""
        keys = [
            key
            for key in self.rows
            if key[:2] == (op, direction) and all(word in key[2] for word in words.split())
        ]
        return self.rows[min(keys, key=lambda key: (len(key[2]), key[2]))] if keys else None


def read(path: Path) -> Run | None:
    """None: this is not of a benchmark."""
    content = json.loads(path.read_text())
    if not isinstance(content, dict) or not {"rows", "allocator", "date"} <= set(content):
        return None
    rows = [Row(**{k: v for k, v in row.items() if k in _FIELDS}) for row in content.pop("rows")]
    return Run(path.stem, content, by_case(rows))


def load(folder: Path = FOLDER) -> list[Run]:
    paths = [path for path in sorted(folder.glob("*.json")) if ".partial" not in path.suffixes]
    return [run for run in map(read, paths) if run is not None]


def sections(runs: Iterable[Run]) -> list[Section]:
    """By device, machine and allocator: the CPU first, kept memory before fresh."""
    found: dict[Place, Section] = {}
    for run in sorted(runs, key=lambda run: run.facts["date"]):
        if run.complete:
            section = found.setdefault(run.place, Section(run.place, {}))
            for key, rows in run.groups.items():
                section.rows.pop(key, None)  # so that the rows of a run stay together
                section.rows[key] = run, rows
    return sorted(found.values(), key=lambda s: (s.place.device, s.place.machine, _rank(s.place)))


def _rank(place: Place) -> tuple[bool, str, bool]:
    return place.allocator != "warm", place.allocator, place.cache != "warm"


def losses(section: Section) -> Iterator[tuple[Row, Row]]:
    """(ours, a rival that is faster), everywhere."""
    for _, rows in section.rows.values():
        ours = fastest(rows, "ours")
        for row in rows:
            if ours is not None and row.kind in RIVALS and row.median_ms is not None:
                if row.median_ms < (ours.median_ms or 0):
                    yield ours, row


def ratio(rows: list[Row], kind: str) -> float | None:
    """How many times faster ours is than the fastest of a kind."""
    ours, other = fastest(rows, "ours"), fastest(rows, kind)
    if ours is None or other is None or not ours.median_ms or other.median_ms is None:
        return None
    return other.median_ms / ours.median_ms
