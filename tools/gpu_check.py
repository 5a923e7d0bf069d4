# SPDX-License-Identifier: Apache-2.0
"""Everything that needs a GPU, in one command, without network.

    python tools/gpu_check.py                            all stages, in under ten minutes
    python tools/gpu_check.py --only build doctor gpu    some of them
    python tools/gpu_check.py --library FILE             also a _C_cuda.abi3.so built elsewhere
    python tools/gpu_check.py --merge A.json B.json      one report of several runs (needs no GPU)

Needs what torch needs, nvcc for the stage build, pytest for the tests. Writes
gpu-check-<GPU>-<commit>.json and .md into benchmarks/results, anew after every stage: what a run
that is stopped has found stays. Stages that an earlier run of this commit on this GPU left there
are kept. Every stage is a process of its own with a time of its own.

Exit status: 0 all stages passed or were skipped with a reason, 1 one failed, 2 no GPU or wrong
arguments.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

TOOLS = Path(__file__).resolve().parent
ROOT = TOOLS.parent
sys.path.insert(0, str(TOOLS))

import gpu_report  # noqa: E402
from gpu_stages import STAGES  # noqa: E402

LEAST_S = 10.0  # with less of the budget left, a stage is not begun
RESULTS = ROOT / "benchmarks" / "results"


def main(argv: Sequence[str] | None = None) -> int:
    options = parse(argv)
    if options.list:
        for name, stage in STAGES.items():
            print(f"{name:16} {stage.seconds:4.0f} s at most  {stage.purpose}")
        return 0
    if options.merge:
        return write_merged(options.merge, options.out)
    deadline = time.monotonic() + options.budget_s
    machine = run_stage("facts", 60)
    if not machine.get("gpu"):
        why = machine.get("why") or f"torch {machine.get('torch')} finds no GPU here"
        print(f"gpu_check: {why}; nothing was run", file=sys.stderr)
        return 2
    commit = options.commit or commit_of(ROOT)
    stem = "gpu-check-" + "-".join([*re.findall(r"[\w.]+", machine["gpu"]), commit])
    options.out.mkdir(parents=True, exist_ok=True)
    target = options.out / f"{stem}.json"
    content = begin(target, machine, commit)
    extra = ["--shards", str(options.shards or machine["cores"])]
    extra += ["--benchmarks", str(options.out / f"{stem}-benchmarks.json")]
    if options.library is not None:
        extra += ["--library", str(options.library.resolve())]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # runs the finally of run_stage
    for name in options.only or STAGES:
        seconds = min(STAGES[name].seconds, deadline - time.monotonic())
        if seconds < LEAST_S:
            result = {"outcome": "skipped", "why": f"--budget-s {options.budget_s:.0f} is used up"}
        else:
            print(f"{name}: at most {seconds:.0f} s", flush=True)
            content["stages"][name] = {"outcome": "failed", "why": "stopped in it"}
            gpu_report.write(target, content)
            result = run_stage(name, seconds, extra)
        content["stages"][name] = result
        content["stages"] = {n: content["stages"][n] for n in STAGES if n in content["stages"]}
        gpu_report.write(target, content)
        print(f"{name}: {gpu_report.line(result)}", flush=True)
    print(f"wrote {target} and {target.with_suffix('.md').name}")
    mine = [content["stages"][name] for name in options.only or STAGES]
    return int(any(result["outcome"] == "failed" for result in mine))


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "tools/gpu_check.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--only", nargs="+", metavar="STAGE", choices=list(STAGES), help="these stages, in order")
    add("--list", action="store_true", help="the stages, and how long each may take")
    add("--budget-s", type=float, default=570, metavar="S", help="seconds in all; 570 unless told")
    add(
        "--out",
        type=lambda name: Path(name).resolve(),
        default=RESULTS,
        metavar="DIR",
        help="benchmarks/results unless told",
    )
    add("--commit", help="the name in the results, where there is no git to ask")
    add("--library", type=Path, metavar="FILE", help="a _C_cuda.abi3.so built elsewhere")
    add("--shards", type=int, metavar="N", help="processes for the tests; one a core unless told")
    add("--merge", type=Path, nargs="+", metavar="FILE", help="write one report of these results")
    options = parser.parse_args(argv)
    if options.budget_s <= 0:
        parser.error("--budget-s must be positive")
    if options.shards is not None and options.shards < 1:
        parser.error("--shards must be at least 1")
    for path in [*(options.merge or []), *filter(None, [options.library])]:
        if not path.is_file():
            parser.error(f"{path}: there is no such file")
    if options.commit and not re.fullmatch(r"[\w.+-]+", options.commit):
        parser.error("--commit becomes part of a file name: letters, digits, '.', '+' and '-'")
    return options


def run_stage(
    name: str,
    seconds: float,
    extra: Sequence[str] = (),
    script: Path = TOOLS / "gpu_stages.py",
    environment: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """What a stage found, with its outcome however it ended. Nothing it started stays."""
    with tempfile.TemporaryDirectory(prefix="pose_kernels_stage_") as folder:
        record, log = Path(folder, "record.json"), Path(folder, "log")
        command = [sys.executable, str(script), name, "--record", str(record)]
        command += ["--seconds", f"{seconds:.1f}", *extra]
        start = time.monotonic()
        with open(log, "w") as output:
            process = subprocess.Popen(
                command,
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,  # a group of its own, to end with all its children
            )
        try:
            status: int | None = process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            end_group(process)
        try:
            found = json.loads(without_paths(record.read_text()))
        except (OSError, ValueError):
            found = {}
        found["seconds"] = round(time.monotonic() - start, 1)
        tail = without_paths(log.read_text(errors="replace"))[-2000:]
    if status is None:
        found |= {"outcome": "failed", "why": f"stopped after {seconds:.0f} s", "log": tail}
    elif status or "outcome" not in found:
        found["outcome"] = "failed"
        found.setdefault("why", f"its process {ending(status)}")
        found["log"] = tail
    return found


def without_paths(text: str) -> str:
    """Where the checkout and its environment lie on that machine is nobody's business."""
    text = text.replace(str(ROOT), ".")
    return text.replace(sys.prefix, "(python)") if sys.prefix != sys.base_prefix else text


def end_group(process: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def ending(status: int) -> str:
    if status < 0:
        return f"died of {signal.Signals(-status).name}"
    return f"ended with status {status}"


def commit_of(root: Path) -> str:
    """Of the checkout; of the build where there is no git; "unknown"."""
    try:
        git = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=7"]
        done = subprocess.run([*git, "--exclude=*"], capture_output=True, text=True)
        if done.returncode == 0 and (root / ".git").exists():
            return done.stdout.strip()
    except OSError:
        pass
    try:
        info = json.loads((root / "pose_kernels/_build_info.json").read_text())
        return info.get("commit") or "unknown"
    except (OSError, ValueError):
        return "unknown"


def begin(target: Path, machine: dict[str, Any], commit: str) -> dict[str, Any]:
    """A new result, or the one that is there with the stages it has."""
    stages: dict[str, Any] = {}
    try:
        stages = json.loads(target.read_text())["stages"]
    except (OSError, ValueError, KeyError):
        pass
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    return {
        "kind": "gpu-check",
        "date": now,
        "commit": commit,
        "machine": machine,
        "stages": stages,
    }


def write_merged(files: Sequence[Path], out: Path) -> int:
    """The stages of all; of one that several have, the last that was not skipped."""
    contents = [json.loads(path.read_text()) for path in files]
    whole = contents[-1]
    about = {(each["machine"]["gpu"], each["commit"]) for each in contents}
    if len(about) > 1:
        pairs = ", ".join(f"{gpu} {commit}" for gpu, commit in sorted(about))
        print(f"gpu_check: these are of different GPUs or commits: {pairs}", file=sys.stderr)
        return 2
    stages: dict[str, Any] = {}
    for content in contents:
        for name, result in content["stages"].items():
            if result["outcome"] != "skipped" or name not in stages:
                stages[name] = result
    order = [name for name in STAGES if name in stages]
    whole["stages"] = {name: stages[name] for name in order}
    out.mkdir(parents=True, exist_ok=True)
    target = out / f"{files[-1].stem}.json"
    gpu_report.write(target, whole)
    print(f"wrote {target} and {target.with_suffix('.md').name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
