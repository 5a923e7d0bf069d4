# SPDX-License-Identifier: Apache-2.0
"""The files of a run, rewritten whole after every case: a run that dies loses nothing.

Until its last case a run writes NAME.partial.json (.md, .csv). Only the complete run takes the
name itself, so that a finished result never gives way to half of another.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pose_kernels.files import open_folder, write_files

from .report import Row


class Record:
    """targets: every file to write, and what it holds: "json", "md" or "csv"."""

    def __init__(self, targets: Mapping[Path, str]) -> None:
        self.targets = dict(targets)
        self.written: list[Path] = []

    @classmethod
    def of(cls, json_file: Path | None, stem: Path | None) -> Record:
        """A JSON file of its own, and three files named by a stem.

        Raises OSError when a folder cannot be written into: now, not after the first case.
        """
        targets = {json_file: "json"} if json_file else {}
        if stem is not None:
            targets |= {stem.with_name(f"{stem.name}.{form}"): form for form in CONTENT}
        for target in targets:
            if target.exists() and not target.is_file():  # /dev/null must stay what it is
                raise OSError(f"cannot write {target}: it is no plain file")
            open_folder(target.parent)
        return cls(targets)

    def save(self, facts: Mapping[str, Any], rows: Sequence[Row], text: str, done: bool) -> None:
        """Raises OSError with one clear line; then the files are as they were."""
        content = {form: make(facts, rows, text, done).encode() for form, make in CONTENT.items()}
        names = {target: target if done else partial(target) for target in self.targets}
        write_files({name: content[self.targets[target]] for target, name in names.items()})
        self.written = list(names.values())
        if done:
            for target in self.targets:
                with suppress(OSError):
                    partial(target).unlink(missing_ok=True)


def partial(target: Path) -> Path:
    return target.with_name(f"{target.stem}.partial{target.suffix}")


def as_json(facts: Mapping[str, Any], rows: Sequence[Row], text: str, done: bool) -> str:
    content = {**facts, "complete": done, "rows": [row.as_dict() for row in rows]}
    return json.dumps(content, indent=1) + "\n"


def as_markdown(facts: Mapping[str, Any], rows: Sequence[Row], text: str, done: bool) -> str:
    return text if done else f"**Unfinished: the run goes on, or has ended early.**\n\n{text}"


def as_csv(facts: Mapping[str, Any], rows: Sequence[Row], text: str, done: bool) -> str:
    """One line per provider and case; what was not measured is empty."""
    buffer = io.StringIO()
    lines = [row.as_dict() for row in rows]
    writer = csv.DictWriter(buffer, list(lines[0]) if lines else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return buffer.getvalue()


CONTENT = {"json": as_json, "md": as_markdown, "csv": as_csv}
