# SPDX-License-Identifier: Apache-2.0
"""Which backend executed which op in the tests: recorded where it happens, and told as a table.

What is written in Python is wrapped here: the reference implementations, the Triton launchers and
the emulated CUDA launchers. The compiled kernels are not touched. They are what remains: an op that
the dispatcher ran on tensors, with a kernel registered for their device, while no implementation in
Python was entered.
"""

from __future__ import annotations

import importlib
import importlib.util
import platform
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

import torch
from emulation import builder
from torch import Tensor

import pose_kernels as pk
from pose_kernels.autograd import NAMESPACE, OPERATORS, Operator
from pose_kernels.triton import OPS as TRITON_OPS

BACKENDS = ("cpp", "reference", "triton-interpreted", "triton-compiled", "cuda-emulated")
GPU_BACKENDS = ("cuda", "triton on a GPU", "reference on a GPU")
COLUMNS = (*BACKENDS, *GPU_BACKENDS)

Cell = tuple[str, str]  # op, backend

current: Counter[Cell] = Counter()  # of the test that runs now
passed: Counter[Cell] = Counter()  # tests that executed an op and passed

_has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
_thread = threading.local()
_triton_kinds: list[Any] = []  # what a kernel may be, once that is watched
_launched: list[str] = []  # how each Triton kernel was run, in order


# ---- watching


def record(op: str, backend: str) -> None:
    current[op, backend] = 1


def _entered() -> set[str]:
    """The ops whose implementation in Python was entered in this thread."""
    if not hasattr(_thread, "entered"):
        _thread.entered = set()
    return _thread.entered


def _where(args: Iterable[Any]) -> str:
    return next(x for x in args if isinstance(x, Tensor)).device.type


def watch_dispatcher() -> None:
    """Once per process."""
    call = Operator.__call__

    def watched(self: Operator, *args: Any) -> Any:
        if torch.compiler.is_compiling():
            return call(self, *args)
        _entered().discard(self.name)
        result = call(self, *args)
        device = _where(args)
        # Tensors of another type, fake ones say, have kernels of their own.
        real = type(args[0]) in (Tensor, torch.nn.Parameter) and device in ("cpu", "cuda")
        if real and self.name not in _entered():
            if not _has_kernel(f"{NAMESPACE}::{self.name}", device.upper()):
                record(self.name, "reference" if device == "cpu" else "reference on a GPU")
            else:
                record(self.name, "cpp" if device == "cpu" else "cuda")
        return result

    Operator.__call__ = watched  # type: ignore[method-assign]
    for op, operator in OPERATORS.items():
        operator.reference = _watched_reference(op, operator.reference)
    with pk.use_backend(pk.backends.current()):  # and out of it again: what it registers is watched
        pass
    if torch.cuda.is_available() and "triton" not in pk.backends.unavailable:
        watch_triton()


def _watched_reference(op: str, reference: Callable[..., Any]) -> Callable[..., Any]:
    def run(*args: Any) -> Any:
        result = reference(*args)
        _entered().add(op)
        record(op, "reference" if _where(args) == "cpu" else "reference on a GPU")
        return result

    return run


def watch_triton() -> None:
    """Again and again does no harm."""
    import triton
    from triton.runtime.interpreter import InterpretedFunction

    if _triton_kinds:
        return
    _triton_kinds.extend((triton.JITFunction, InterpretedFunction))
    for kind in _triton_kinds:
        kind.run = _watched_kernel(kind.run, kind is InterpretedFunction)
    for op, name in TRITON_OPS.items():
        module = importlib.import_module(f"pose_kernels.triton.{name}")
        setattr(module, op, _watched_launcher(op, getattr(module, op)))


def _watched_kernel(run: Callable[..., Any], interpreted: bool) -> Callable[..., Any]:
    def watched(self: Any, *args: Any, warmup: bool, **kwargs: Any) -> Any:
        kernel = run(self, *args, warmup=warmup, **kwargs)
        how = "triton-interpreted" if interpreted else "triton on a GPU"
        _launched.append("triton-compiled" if warmup else how)
        return kernel

    return watched


def _watched_launcher(op: str, launcher: Callable[..., Any]) -> Callable[..., Any]:
    def run(*args: Any) -> Any:
        _launched.clear()
        result = launcher(*args)
        _entered().add(op)
        for how in _launched:  # nothing where it asked the reference, or there was nothing to do
            record(op, how)
        return result

    return run


def watch_emulated(module: ModuleType) -> None:
    def watched(op: str, launcher: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            before = module.blocks_run()
            result = launcher(*args)
            if module.blocks_run() > before:
                record(op, "cuda-emulated")
            return result

        return run

    for op in OPERATORS:
        if hasattr(module, op):  # a missing one is an empty cell
            setattr(module, op, watched(op, getattr(module, op)))


# ---- between tests and processes


def properties() -> list[tuple[str, str]]:
    """What this test executed, for its report: reports travel between processes."""
    return [("executed", f"{count} {op} {backend}") for (op, backend), count in current.items()]


def cells(properties: Iterable[tuple[str, object]]) -> Counter[Cell]:
    found: Counter[Cell] = Counter()
    for name, value in properties:
        if name == "executed":
            count, op, backend = str(value).split(" ", 2)
            found[op, backend] += int(count)
    return found


# ---- the table


def why_none(backend: str) -> str | None:
    """Why a backend cannot run on this machine; None: it can."""
    if backend == "cuda-emulated":
        try:
            builder.compiler()
        except builder.CannotBuild as reason:
            return str(reason)
        return None
    if backend in ("triton-interpreted", "triton-compiled"):
        found = importlib.util.find_spec("triton")
        return None if found else "the package triton is not installed"
    kind = backend.split(" ")[0]
    if kind in pk.backends.unavailable:
        return pk.backends.unavailable[kind].splitlines()[0]
    if backend in GPU_BACKENDS and not torch.cuda.is_available():
        return "no GPU here"
    return None


def exists(op: str, backend: str) -> bool:
    return not backend.startswith("triton") or op in TRITON_OPS


def empty_cells() -> list[Cell]:
    """Of backends that this machine has: the ops that no test executed and passed."""
    here = [backend for backend in COLUMNS if why_none(backend) is None]
    pairs = [(op, backend) for op in sorted(OPERATORS) for backend in here]
    return [cell for cell in pairs if exists(*cell) and not passed[cell]]


def rows() -> list[list[str]]:
    """The table with its header; "none": there is no such kernel."""

    def text(op: str, backend: str) -> str:
        return str(passed[op, backend]) if exists(op, backend) else "none"

    return [
        ["op", *COLUMNS],
        *([op, *(text(op, backend) for backend in COLUMNS)] for op in sorted(OPERATORS)),
    ]


def as_text() -> str:
    table = rows()
    widths = [max(map(len, column)) for column in zip(*table)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in table
    )


PAGE = """# Which backend executes which op in the tests

Written by `make test ARGS="--backend-table FILE"`, not by hand.

Each cell counts the tests that passed and in which that op ran on that backend, recorded at the
call; "none": the op has no kernel in Triton, and the reference runs in its place.
A complete run fails if a cell of a backend that the machine has is 0.

Python {python}, torch {torch}, {gpu}. {missing}

{table}
"""


def as_page() -> str:
    head, *body = rows()
    lines = [head, ["---"] + ["--:"] * len(COLUMNS), *([f"`{row[0]}`", *row[1:]] for row in body)]
    reasons = {backend: why_none(backend) for backend in COLUMNS}
    missing = [f"{backend} ({reason})" for backend, reason in reasons.items() if reason]
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return PAGE.format(
        python=platform.python_version(),
        torch=torch.__version__,
        gpu=gpu,
        missing=f"Not on this machine: {'; '.join(missing)}." if missing else "",
        table="\n".join(f"| {' | '.join(line)} |" for line in lines),
    )
