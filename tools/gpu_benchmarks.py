# SPDX-License-Identifier: Apache-2.0
"""The benchmarks on a GPU, in groups of ops: one that dies or takes too long costs no other, and
of itself only the cases that are not done.

Writes the rows of all groups into one file of the form that ``python -m benchmarks.run --json``
writes, so that benchmarks/plot.py and report.py read it.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

GROUPS = (
    ("uv_splat", "uv_gather", "push_pull"),
    ("flow_warp", "heatmap", "region_crop", "capsule_mask"),
    ("helmert_fit", "helmert_warp"),
    ("uv_raster", "mesh_raster"),
)


def command(ops: tuple[str, ...], target: Path, device: str = "cuda") -> list[str]:
    words = [sys.executable, "-m", "benchmarks.run", "--device", device, "--quick", "--no-memory"]
    return [*words, *(word for op in ops for word in ("--op", op)), "--json", str(target)]


def merged(contents: list[dict[str, Any]]) -> dict[str, Any]:
    """One result of several runs on one machine: the first one's facts, the rows of all."""
    ceilings = [row for content in contents for row in content["ceiling"]]
    best: dict[float, dict[str, float]] = {}
    for row in ceilings:  # every run measured it
        kept = best.setdefault(row["megabytes"], dict(row))
        best[row["megabytes"]] = {key: max(row[key], kept[key]) for key in row}
    commands = "; ".join(content["command"] for content in contents)
    rows = [row for content in contents for row in content["rows"]]
    whole = {"command": commands, "complete": True, "ceiling": list(best.values()), "rows": rows}
    return {**contents[0], **whole}


def unfinished(target: Path) -> Path:
    """What benchmarks.run writes while it runs."""
    return target.with_name(f"{target.stem}.partial{target.suffix}")


def table(rows: list[dict[str, Any]]) -> str:
    """The summary that benchmarks.run prints, of rows read back."""
    from benchmarks.report import Row, summary

    names = {field.name for field in dataclasses.fields(Row)}
    return summary([Row(**{k: v for k, v in row.items() if k in names}) for row in rows])


def stage(record: Any, target: Path | None, device: str = "cuda", groups: Any = GROUPS) -> None:
    """Fills the record of the stage of tools/gpu_check.py."""
    contents: list[dict[str, Any]] = []
    failed: list[str] = []
    with tempfile.TemporaryDirectory(prefix="pose_kernels_benchmarks_") as folder:
        for number, ops in enumerate(groups):
            file = Path(folder, f"{number}.json")
            seconds = record.left / (len(groups) - number)  # what one saves, the next ones have
            try:
                done = record.run(command(ops, file, device), seconds)
                output, why = done.stdout, f"exit status {done.returncode}"
            except subprocess.TimeoutExpired as stopped:
                output, why = (stopped.stdout or b"").decode(errors="replace"), "out of time,"
            written = [path for path in (file, unfinished(file)) if path.exists()]
            if written:
                contents.append(json.loads(written[0].read_text()))
            if not file.exists():
                last = [line for line in output.splitlines() if line.strip()][-1:]
                failed.append(f"{', '.join(ops)}: {why} {' '.join(last)}".strip())
                record.update(output=output[-3000:])
            if contents:
                whole = merged(contents)
                record.update(ceiling=whole["ceiling"], summary=table(whole["rows"]))
                record.update(refused=_refused(whole["rows"]), failed_groups=failed)
                if target is not None:
                    target.write_text(json.dumps(whole, indent=1) + "\n")
    ours = [row for row in (merged(contents)["rows"] if contents else []) if row["kind"] == "ours"]
    wrong = [f"{row['op']} {row['provider']}: {row['refused']}" for row in ours if row["refused"]]
    if failed or wrong or not ours:
        record.update(outcome="failed", why="; ".join([*failed, *wrong]) or "nothing was timed")
    else:
        record.update(outcome="passed")


def _refused(rows: list[dict[str, Any]]) -> list[str]:
    """Who was not timed and why, each once."""
    told = (f"{row['op']}, {row['provider']}: {row['refused']}" for row in rows if row["refused"])
    return list(dict.fromkeys(told))
