# SPDX-License-Identifier: Apache-2.0
"""The results of tools/gpu_check.py as JSON and as Markdown."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MOST = 40  # failures that are told in full


def write(target: Path, content: dict[str, Any]) -> None:
    """Whole or not at all: a run that is stopped while it writes leaves the last one."""
    page = target.with_suffix(".md")
    for path, text in ((target, json.dumps(content, indent=1) + "\n"), (page, markdown(content))):
        part = path.with_name(path.name + ".part")
        part.write_text(text)
        part.replace(path)


def line(result: dict[str, Any]) -> str:
    """One stage in a line: outcome, why, how long."""
    words = [result["outcome"]]
    if result.get("why"):
        words.append(f": {_flat(result['why'])}")
    if counts := result.get("counts"):
        told = ", ".join(f"{number} {name}" for name, number in counts.items())
        words.append(f" ({told})")
    if "seconds" in result:
        words.append(f", {result['seconds']:.0f} s")
    return "".join(words)


def markdown(content: dict[str, Any]) -> str:
    return "\n".join([*_head(content), *_stages(content["stages"])]) + "\n"


def _head(content: dict[str, Any]) -> Iterator[str]:
    machine = content["machine"]
    yield f"# GPU check: {machine['gpu']}, commit {content['commit']}"
    yield ""
    told = {
        "GPU": f"{machine['gpu']}, sm_{machine.get('capability', '?').replace('.', '')}",
        "driver": machine.get("driver"),
        "torch": f"{machine.get('torch')} (CUDA {machine.get('cuda')})",
        "Python": machine.get("python"),
        "processors": machine.get("cores"),
    }
    facts = "; ".join(f"{name} {value}" for name, value in told.items() if value)
    yield f"`python tools/gpu_check.py`, {content['date']}. {facts}."
    yield ""
    yield "| stage | outcome | s | |"
    yield "|---|---|--:|---|"
    for name, result in content["stages"].items():
        outcome = result["outcome"] if result["outcome"] != "failed" else "**failed**"
        seconds = f"{result['seconds']:.0f}" if "seconds" in result else ""
        yield f"| {name} | {outcome} | {seconds} | {_cell(_gist(result))} |"


def _gist(result: dict[str, Any]) -> str:
    """What the table says of a stage beside its outcome."""
    told = [_flat(result["why"])] if result.get("why") else []
    if counts := result.get("counts"):
        told.append(", ".join(f"{number} {name}" for name, number in counts.items()))
    if result.get("restarts"):
        told.append(f"{result['restarts']} restarts after a crash")
    if "build_s" in result:
        told.append(f"sm_{result['architecture'].replace('.', '')}, {result['jobs']} jobs")
    if "ran" in result:
        told.append(
            f"{result['library']} (of torch {result['built_with_torch']}) ran {result['ran']}"
        )
    return "; ".join(told)


def _stages(stages: dict[str, Any]) -> Iterator[str]:
    for name, result in stages.items():
        body = [*_kernels(result), *_tests(result), *_runs(result), *_benchmarks(result)]
        if result["outcome"] == "failed":
            for key in ("output", "log"):
                if text := result.get(key):
                    body += ["", "```", *text.rstrip().splitlines()[-30:], "```"]
        elif name == "doctor" and result.get("output"):
            body += ["", "```", *result["output"].rstrip().splitlines(), "```"]
        if body:
            yield ""
            yield f"## {name}"
            yield from body


def _kernels(result: dict[str, Any]) -> Iterator[str]:
    if not result.get("kernels"):
        return
    yield ""
    yield "| source | kernels | most registers |"
    yield "|---|--:|--:|"
    for source, found in result["kernels"].items():
        yield f"| {source} | {found['kernels']} | {found['most_registers']} |"
    for fault in result.get("faults", []):
        yield f"* {_flat(fault)}"


def _tests(result: dict[str, Any]) -> Iterator[str]:
    failed = result.get("failed", [])
    if failed:
        yield ""
        yield f"Failed ({len(failed)}):"
        yield ""
        for each in failed[:MOST]:
            yield f"* `{each['test']}`: {_flat(each['why'])[:300]}"
        for each in failed[MOST:]:
            yield f"* `{each['test']}`"
    if result.get("skipped"):
        yield ""
        yield "Skipped:"
        yield ""
        for why, number in result["skipped"].items():
            yield f"* {number}: {_flat(why)}"
    if result.get("slowest"):
        yield ""
        slowest = ", ".join(f"`{name}` {s} s" for name, s in result["slowest"].items())
        yield f"Slowest: {slowest}."


def _runs(result: dict[str, Any]) -> Iterator[str]:
    runs = result.get("runs")
    if not runs:
        return
    yield ""
    yield "| tool | outcome | errors | s | |"
    yield "|---|---|--:|--:|---|"
    for name, run in runs.items():
        cells = [name, run["outcome"], run["errors"], run["seconds"], _cell(run.get("why", ""))]
        yield f"| {' | '.join(map(str, cells))} |"
    for name, run in runs.items():
        if run.get("output"):
            yield from ["", f"{name}:", "", "```", *run["output"].splitlines()[:20], "```"]


def _benchmarks(result: dict[str, Any]) -> Iterator[str]:
    if not result.get("summary"):
        return
    yield ""
    told = ", ".join(
        f"{row['copy_gb_s']:.0f} at {row['megabytes']:.0f} MB" for row in result["ceiling"]
    )
    yield f"Measured copy bandwidth, GB/s: {told}."
    yield ""
    yield result["summary"]
    if result.get("refused"):
        yield ""
        yield "Not timed:"
        yield ""
        yield from (f"* {_flat(each)}" for each in result["refused"])


def _flat(text: str) -> str:
    return " ".join(str(text).split())


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
