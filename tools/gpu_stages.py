# SPDX-License-Identifier: Apache-2.0
"""What tools/gpu_check.py runs: one stage, in a process of its own that may die or be stopped.

    python tools/gpu_stages.py STAGE --record FILE --seconds 60

A stage writes what it finds into FILE as it goes: {"outcome": "passed" | "failed" | "skipped",
"why": ..., and what there is to tell}. Without an outcome in the end, it died.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

TOOLS = Path(__file__).resolve().parent
ROOT = TOOLS.parent
sys.path[:0] = [str(TOOLS), str(ROOT)]

MARGIN_S = 5.0  # of its time that a stage leaves for writing down how far it came


class Record:
    """A dictionary that is on disk, whole, after every update."""

    def __init__(self, path: Path, seconds: float) -> None:
        self.path, self.content = path, dict[str, Any]()
        self.deadline = time.monotonic() + seconds

    @property
    def left(self) -> float:
        return max(1.0, self.deadline - time.monotonic() - MARGIN_S)

    def update(self, **found: Any) -> None:
        self.content |= found
        whole = self.path.with_suffix(".part")
        whole.write_text(json.dumps(self.content))
        whole.replace(self.path)

    def run(
        self, command: Sequence[object], seconds: float | None = None, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """A command at the root, within the time that is left, stdout and stderr together."""
        return subprocess.run(
            [str(word) for word in command],
            cwd=ROOT,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=self.left if seconds is None else seconds,
        )


# ---- the stages


def facts(record: Record, options: argparse.Namespace) -> None:
    """The GPU and what drives it."""
    import torch

    record.update(
        torch=torch.__version__,
        cuda=torch.version.cuda,
        python=sys.version.split()[0],
        cores=len(os.sched_getaffinity(0)),
        packages={
            name: importlib.util.find_spec(name) is not None
            for name in ("triton", "hypothesis", "cv2", "kornia", "roma", "interpol")
        },
    )
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        record.update(
            gpu=properties.name,
            gpus=torch.cuda.device_count(),
            capability=f"{properties.major}.{properties.minor}",
            memory_gb=round(properties.total_memory / 1e9),
        )
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        if shutil.which(query[0]):
            record.update(driver=record.run(query).stdout.split("\n")[0])
    record.update(outcome="passed")


def build(record: Record, options: argparse.Namespace) -> None:
    """Both libraries, compiled for this GPU by this machine's nvcc against its torch."""
    import check_cuda

    facts_of = subprocess.run(
        [sys.executable, "-c", "import torch; print(*torch.cuda.get_device_capability(), sep='.')"],
        capture_output=True,
        text=True,
        check=True,
    )
    architecture, jobs = facts_of.stdout.strip(), str(len(os.sched_getaffinity(0)))
    record.update(architecture=architecture, jobs=jobs)
    start = time.monotonic()
    done = record.run(
        [sys.executable, "setup.py", "build_kernels", "--inplace"],
        POSE_KERNELS_CUDA="1",
        TORCH_CUDA_ARCH_LIST=architecture,
        MAX_JOBS=jobs,
    )
    record.update(build_s=round(time.monotonic() - start, 1), output=done.stdout[-3000:])
    if done.returncode:
        return record.update(outcome="failed", why=f"setup.py exited with {done.returncode}")
    kernels, faults = {}, []
    for log in sorted((ROOT / "build/kernels/cuda/csrc/cuda").glob("*.cu.o.log")):
        registers, wrong = check_cuda.read_log(log.read_text())
        used = [n for numbers in registers.values() for n in numbers]
        source = log.name.removesuffix(".o.log")
        kernels[source] = {"kernels": len(used), "most_registers": max(used, default=0)}
        faults += [f"{source}: {check_cuda.demangle(text).strip()}" for text in wrong]
    record.update(kernels=kernels, faults=faults)
    why = {"why": f"{len(faults)} spills or warnings"} if faults else {}
    record.update(outcome="failed" if faults else "passed", **why)


def doctor(record: Record, options: argparse.Namespace) -> None:
    """python -m pose_kernels: what loaded, and its self test on every device."""
    done = record.run([sys.executable, "-m", "pose_kernels"])
    record.update(output=done.stdout)
    loaded = re.search(r"^ *_C_cuda +loaded", done.stdout, re.MULTILINE)
    if done.returncode:
        record.update(outcome="failed", why="its self test failed")
    elif not loaded:
        record.update(outcome="failed", why="_C_cuda did not load")
    else:
        record.update(outcome="passed")


def contract(backend: str) -> Callable[[Record, argparse.Namespace], None]:
    def stage(record: Record, options: argparse.Namespace) -> None:
        code = (
            f"from pose_kernels import backends; print(backends.unavailable.get({backend!r}, ''))"
        )
        why = record.run([sys.executable, "-c", code]).stdout.strip()
        if why:  # or the tests would run on what is chosen in its place
            return record.update(outcome="failed", why=f"no backend {backend}: {why}")
        arguments = ["--gpu", backend, "--tb=short", *files_about(backend)]
        tests(record, options, arguments, {"POSE_KERNELS_BACKEND": backend})

    stage.__doc__ = f"Every test of tests/ that runs on a GPU, with the backend {backend}."
    return stage


def files_about(backend: str) -> list[str]:
    """Test files with a test that may run on a GPU; of ops without a Triton kernel not for that."""
    about = re.compile(r"\b(place|device)\b|\bContract\b")
    others = "cuda_ triton gpu build import cli docs".split()
    if backend == "triton":
        import abi_check

        ops, kernels = (abi_check.package() / folder for folder in ("ops", "triton"))
        names = {path.stem for path in ops.glob("[a-z]*.py")}
        others += sorted(names - {path.stem for path in kernels.glob("*.py")})
    other = re.compile(f"test_({'|'.join(others)})")
    return [
        str(path.relative_to(ROOT))
        for path in sorted((ROOT / "tests").glob("test_*.py"))
        if not other.match(path.name) and about.search(path.read_text())
    ]


def gpu(record: Record, options: argparse.Namespace) -> None:
    """What only a GPU can answer: graphs, streams, a second device, more than 2^31 elements."""
    large = "tests/test_registration.py::test_offsets_beyond_32_bits_on_a_gpu"
    options.shards = min(options.shards, 4)  # some of them take tens of gigabytes
    tests(
        record, options, ["--tb=short", "tests/test_gpu.py", "tests/test_gpu_large.py", large], {}
    )


def tests(
    record: Record,
    options: argparse.Namespace,
    arguments: Sequence[str],
    environment: dict[str, str],
) -> None:
    """pytest in so many processes; what fails is named, what crashes costs one test."""
    import shard

    # Inductor would start a process per core, for each of ours.
    environment = {**os.environ, "TORCHINDUCTOR_COMPILE_THREADS": "1", **environment}
    if importlib.util.find_spec("hypothesis") is None:
        paths = [str(TOOLS / "stand_ins"), environment.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    os.chdir(ROOT)
    with tempfile.TemporaryDirectory(prefix="pose_kernels_tests_") as folder:
        found = shard.run(
            arguments,
            shards=options.shards,
            folder=Path(folder),
            seconds=record.left,
            environment=environment,
            progress=lambda found: record.update(**found),
        )
    record.update(shards=options.shards, **found)
    counts = found["counts"]
    if found["failed"]:
        record.update(outcome="failed", why=f"{len(found['failed'])} tests failed")
    elif found["broken"]:
        record.update(outcome="failed", why=found["broken"][0].splitlines()[0])
    elif found["timed_out"]:
        record.update(
            outcome="failed", why=f"out of time, {counts.get('not run', 0)} tests not run"
        )
    elif not counts.get("passed"):
        record.update(outcome="failed", why="no test passed")
    else:
        record.update(outcome="passed")


def sanitizer(record: Record, options: argparse.Namespace) -> None:
    """compute-sanitizer's four tools over every op, and memcheck over the Triton kernels."""
    import sanitizer_runs

    sanitizer_runs.stage(record)


def abi(record: Record, options: argparse.Namespace) -> None:
    """A _C_cuda that was built elsewhere runs one op here."""
    import abi_check

    if options.library is None:
        return record.update(outcome="skipped", why="no --library was given")
    record.update(**abi_check.check(options.library, seconds=record.left))


def bench(record: Record, options: argparse.Namespace) -> None:
    """python -m benchmarks.run --device cuda --quick, in groups that fail alone."""
    import gpu_benchmarks

    gpu_benchmarks.stage(record, options.benchmarks)


class Stage(NamedTuple):
    run: Callable[[Record, argparse.Namespace], None]
    seconds: float  # at most

    @property
    def purpose(self) -> str:
        return (self.run.__doc__ or "").split("\n")[0].rstrip(".")


STAGES = {
    "build": Stage(build, 300),
    "doctor": Stage(doctor, 90),
    "contract-cuda": Stage(contract("cuda"), 300),
    "contract-triton": Stage(contract("triton"), 300),
    "gpu": Stage(gpu, 200),
    "sanitizer": Stage(sanitizer, 300),
    "abi": Stage(abi, 90),
    "bench": Stage(bench, 400),
}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("tools/gpu_stages.py", description=__doc__)
    parser.add_argument("stage", choices=["facts", *STAGES])
    parser.add_argument("--record", type=Path, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--library", type=Path)
    parser.add_argument("--benchmarks", type=Path, help="file for the rows of the benchmarks")
    options = parser.parse_args(argv)
    record = Record(options.record, options.seconds)
    stage = facts if options.stage == "facts" else STAGES[options.stage].run
    try:
        stage(record, options)
    except subprocess.TimeoutExpired as error:
        output = error.stdout or b""
        text = output.decode(errors="replace") if isinstance(output, bytes) else output
        record.update(outcome="failed", why="out of time", output=text[-3000:])
    except Exception as error:
        record.update(outcome="failed", why=f"{type(error).__name__}: {error}")
        raise
    return 0


if __name__ == "__main__":
    sys.exit(main())
