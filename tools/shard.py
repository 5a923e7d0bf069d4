# SPDX-License-Identifier: Apache-2.0
"""A pytest plugin for runs that crash: every n-th test, a line of JSON for each as it happens, and
a second run of the same command goes on behind the test that crashed the first.

    PYTHONPATH=tools python -m pytest -p shard --shard 0/4 --events FILE --gpu cuda tests

``--gpu`` keeps the tests whose place (tests/conftest.py) is a GPU with that backend, and those that
run on the device "cuda" with whatever is chosen there: POSE_KERNELS_BACKEND decides.

A kernel that reads out of bounds takes the CUDA context of its process with it, and every later
test would fail for that: the run stops there. :func:`run` starts all shards, and again what
stopped; :func:`summary` counts what the lines tell.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

TOOLS = Path(__file__).resolve().parent
MOST_RESTARTS = 8
# What the context of a process does not survive.
LOST = re.compile(
    r"illegal memory access|misaligned address|unspecified launch failure|illegal instruction"
    r"|device-side assert|hardware stack error|invalid program counter|context is destroyed"
)


# ---- the plugin


def pytest_addoption(parser: Any) -> None:
    parser.addoption("--shard", default="0/1", help="I/N: every N-th test, beginning at the I-th")
    parser.addoption("--events", help="file that lines are appended to")
    parser.addoption("--gpu", metavar="BACKEND", help="only what runs on a GPU, on this backend")


def pytest_configure(config: Any) -> None:
    if config.getoption("--events"):
        config.pluginmanager.register(Events(config), "events")


class Events:
    def __init__(self, config: Any) -> None:
        self.path = Path(config.getoption("--events"))
        self.index, self.count = map(int, config.getoption("--shard").split("/"))
        self.backend: str | None = config.getoption("--gpu")
        self.session: Any = None

    def wanted(self, item: Any) -> bool:
        if self.backend is None:
            return True
        op = getattr(getattr(item, "cls", None), "op", None)
        if self.backend == "triton" and op is not None:
            from pose_kernels.triton import OPS

            if op.__name__ not in OPS:
                return False  # another backend would run
        given = item.callspec.params if hasattr(item, "callspec") else {}
        return given.get("place") == (self.backend, "cuda") or given.get("device") == "cuda"

    def write(self, **line: Any) -> None:
        with open(self.path, "a") as file:
            file.write(json.dumps(line) + "\n")

    def pytest_sessionstart(self, session: Any) -> None:
        self.session = session

    @pytest.hookimpl(trylast=True)  # what -k, -m and conftest.py leave
    def pytest_collection_modifyitems(self, config: Any, items: list[Any]) -> None:
        before = lines(self.path)
        done = {line["start"] for line in before if "start" in line}
        mine = [item for item in items if self.wanted(item)][self.index :: self.count]
        left = [item for item in mine if item.nodeid not in done]
        if not any("selected" in line for line in before):
            self.write(selected=len(mine))
        kept = set(left)
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = left

    def pytest_collectreport(self, report: Any) -> None:
        """A file that cannot be imported, or is left out as a whole."""
        if not report.passed:
            self.pytest_runtest_logreport(report)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.write(start=nodeid)

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.passed and report.when != "call":
            return
        seconds = getattr(report, "duration", 0.0)
        line = {"test": report.nodeid, "outcome": report.outcome, "seconds": seconds}
        if report.skipped and isinstance(report.longrepr, tuple):
            line["why"] = report.longrepr[2].removeprefix("Skipped: ")
        elif report.failed:
            text = report.longreprtext
            raised = [each[1:].strip() for each in text.splitlines() if each.startswith("E")]
            line["why"] = "\n".join(raised[:6]) or text[-400:]
            if LOST.search(text):
                line["lost"] = True
                self.session.shouldstop = "the CUDA context is lost"
        self.write(**line)


def lines(path: Path) -> list[dict[str, Any]]:
    found = []
    for text in path.read_text().splitlines() if path.exists() else ():
        try:
            found.append(json.loads(text))
        except ValueError:  # cut short by the crash
            continue
    return found


# ---- all shards


def run(
    arguments: Sequence[str],
    *,
    shards: int,
    folder: Path,
    seconds: float,
    environment: dict[str, str] | None = None,
    progress: Callable[[dict[str, Any]], None] = lambda found: None,
) -> dict[str, Any]:
    """Run pytest with these arguments in so many processes, and again what crashed."""
    deadline = time.monotonic() + seconds
    environment = {**(os.environ if environment is None else environment)}
    paths = [str(TOOLS), str(TOOLS.parent), environment.get("PYTHONPATH", "")]
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # none is needed, and some are slow
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    events = [folder / f"shard-{i}.jsonl" for i in range(shards)]
    restarts, seen = [0] * shards, [0] * shards

    def start(i: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "pytest", "-p", "shard", "-p", "no:cacheprovider", "-q"]
        command += [
            "--continue-on-collection-errors",
            f"--shard={i}/{shards}",
            f"--events={events[i]}",
            *arguments,
        ]
        with open(folder / f"shard-{i}.log", "ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, env=environment)

    running = {i: start(i) for i in range(shards)}
    broken: list[str] = []
    told = time.monotonic()
    try:
        while running and time.monotonic() < deadline:
            time.sleep(0.1)
            for i, process in list(running.items()):
                status = process.poll()
                if status is None:
                    continue
                del running[i]
                stopped = status < 0 or status == 2 or status > 5
                before, seen[i] = seen[i], len(lines(events[i]))
                if stopped and restarts[i] < MOST_RESTARTS and seen[i] > before:
                    restarts[i] += 1
                    running[i] = start(i)
                elif status not in (0, 1, 5):
                    log = (folder / f"shard-{i}.log").read_text(errors="replace")
                    broken.append(f"pytest exited with {status}: {log[-800:]}")
            if time.monotonic() - told > 5:
                told = time.monotonic()
                progress(summary(events))
    finally:
        for process in running.values():
            process.kill()
            process.wait()
    found = summary(events, running=False)
    found |= {"restarts": sum(restarts), "broken": broken, "timed_out": bool(running)}
    return found


def summary(events: Sequence[Path], *, running: bool = True) -> dict[str, Any]:
    """Outcomes counted, what failed and why, reasons of skips. running: a test without an outcome
    may still get one."""
    selected, seconds = 0, {}
    started: set[str] = set()
    outcomes: dict[str, str] = {}
    why: dict[str, str] = {}
    for path in events:
        begun: list[str] = []
        for line in lines(path):
            selected += line.get("selected", 0)
            if "start" in line:
                begun.append(line["start"])
            elif "test" in line:
                name = line["test"]
                seconds[name] = line["seconds"]
                if outcomes.get(name) != "failed":  # its teardown may follow
                    outcomes[name] = line["outcome"]
                    why[name] = line.get("why", "")
        started.update(begun)
        still = begun[-1:] if running else []
        for name in begun:
            if name not in outcomes and name not in still:
                outcomes[name], why[name] = "failed", "crashed its process, or was stopped in it"
    counts = Counter(outcomes.values())
    counts["not run"] = max(0, selected - len(started))
    slowest = sorted(seconds.items(), key=lambda item: -item[1])[:5]
    reasons = Counter(why[name] for name, outcome in outcomes.items() if outcome == "skipped")
    return {
        "counts": {name: number for name, number in sorted(counts.items()) if number},
        "failed": [{"test": n, "why": why[n]} for n, o in outcomes.items() if o == "failed"],
        "skipped": dict(reasons.most_common()),
        "slowest": {name: round(s, 1) for name, s in slowest},
    }
