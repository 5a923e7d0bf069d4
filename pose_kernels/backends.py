# SPDX-License-Identifier: Apache-2.0
"""Which implementation runs: loads the compiled libraries, registers Triton, explains the choice.

Every op has a pure PyTorch reference. On top of it lie ``cpp`` (compiled, CPU tensors), ``cuda``
(compiled, CUDA tensors) and ``triton`` (CUDA tensors, where ``cuda`` did not load). What could not
be loaded is recorded with its reason and shown by ``python -m pose_kernels``; nothing here raises
at import.
"""

from __future__ import annotations

import importlib.util
import json
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from .autograd import NAMESPACE, OPERATORS
from .triton import OPS as triton_ops
from .triton import load as load_triton

BACKENDS = ("auto", "cuda", "triton", "cpp", "reference")
_OLDEST_TORCH = (2, 10)  # of the stable ABI that the compiled libraries target

# Why a backend is not available, by name; absent means available.
unavailable: dict[str, str] = {}
_current = "auto"
_override: torch.library.Library | None = None
_lock = threading.RLock()  # of the three around it: threads may enter and leave blocks at once
_outside = "auto"  # the backend outside of all blocks
_blocks: list[list[str]] = []  # those of use_backend that some thread is in, the last entered last


def build_info() -> dict[str, Any]:
    """What the installed build recorded about itself; empty for a pure Python install."""
    path = Path(__file__).with_name("_build_info.json")
    try:
        info = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return info if isinstance(info, dict) else {}


def _load(backend: str, library: str) -> None:
    """Load pose_kernels/<library>*.so, or record why not."""
    folder = Path(__file__).parent
    found = sorted(folder.glob(f"{library}.*so"))
    if not found:
        missing = build_info().get("missing")
        reason = missing.get(library) if isinstance(missing, dict) else None
        unavailable[backend] = f"{library} was not built" + (f": {reason}" if reason else "")
        return
    version = tuple(int(n) for n in torch.__version__.split("+")[0].split(".")[:2])
    if version < _OLDEST_TORCH:
        unavailable[backend] = (
            f"torch {torch.__version__} is older than 2.10, the stable ABI {library} is built for"
        )
        return
    if backend == "cuda" and torch.version.cuda is None:
        unavailable[backend] = f"torch {torch.__version__} is a build without CUDA"
        return
    try:
        torch.ops.load_library(str(found[-1]))
    except OSError as error:
        unavailable[backend] = (
            f"{found[-1].name} did not load into torch {torch.__version__}: {error}"
        )


def interpreted() -> bool:
    """True when Triton kernels run in the interpreter, on CPU tensors (TRITON_INTERPRET=1)."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def _find_triton() -> None:
    try:
        found = importlib.util.find_spec("triton") is not None
    except (ImportError, ValueError):  # an import hook may refuse, a stand-in may lack its spec
        found = False
    if not found:
        unavailable["triton"] = "the package triton is not installed"
    elif torch.version.cuda is None and not interpreted():
        unavailable["triton"] = f"torch {torch.__version__} is a build without CUDA"


def _import_triton() -> None:
    """Import the kernels now; an installed triton that does not work is recorded as such."""
    if "triton" in unavailable:
        return
    try:
        for op in triton_ops:
            load_triton(op)
    except Exception as error:  # whatever a broken installation raises
        unavailable["triton"] = f"triton is installed but fails: {error}"


def _triton_kernels() -> dict[str, Any]:
    """Per op: the Triton launcher, imported at its first call; the reference if that fails."""

    def kernel(op: str) -> Any:
        def run(*args: Any) -> Any:
            _import_triton()
            if "triton" in unavailable:
                warnings.warn(
                    f"{op} runs on the reference: {unavailable['triton']}",
                    RuntimeWarning,
                    stacklevel=2,
                )
                _switch("auto")
                return _references()[op](*args)
            return load_triton(op)(*args)

        return run

    return {op: kernel(op) for op in triton_ops}


def _register(kernels: dict[str, Any], keys: tuple[str, ...]) -> torch.library.Library:
    library = torch.library.Library(NAMESPACE, "IMPL")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="(?s).*Overriding a previously registered")
        for name, kernel in kernels.items():
            for key in keys:
                library.impl(name, kernel, key)
    return library


def _references() -> dict[str, Any]:
    return {name: operator.reference for name, operator in OPERATORS.items()}


def _switch(backend: str) -> None:
    """Lay the asked backend over the natural registration, in place of an earlier override."""
    global _current, _override
    kernels: dict[str, Any] = {}
    keys: tuple[str, ...] = ("CUDA",)
    if backend == "reference":
        kernels, keys = _references(), ("CPU", "CUDA")
    elif backend == "triton":
        kernels, keys = _triton_kernels(), ("CPU",) if interpreted() else ("CUDA",)
    elif "cuda" in unavailable and "triton" not in unavailable and torch.version.cuda is not None:
        kernels = _triton_kernels()
    if _override is not None:
        _override._destroy()
    _override = _register(kernels, keys) if kernels else None
    _current = backend


@contextmanager
def use_backend(backend: str) -> Iterator[None]:
    """Run every op on one backend inside a ``with`` block.

    backend: "auto" (the fastest that loaded), "cpp" (compiled, CPU tensors), "cuda" (compiled,
        CUDA tensors), "triton" (CUDA tensors) or "reference" (pure PyTorch, any device). A
        backend decides for its own device; tensors elsewhere keep the automatic choice.

    The choice is one per process, not per thread: of the blocks that threads are in, the one
    entered last decides. Enter and leave blocks while no other thread runs an op: PyTorch exchanges
    kernels without a lock. The environment variable ``POSE_KERNELS_BACKEND`` sets the initial one.

    Raises ValueError when the backend is unknown or not available; the message says why.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
    if backend == "triton":
        _import_triton()
    if backend in unavailable:
        raise ValueError(f"backend {backend!r} is not available: {unavailable[backend]}")
    global _outside
    block = [backend]
    with _lock:
        if not _blocks:
            _outside = _current
        _switch(backend)
        _blocks.append(block)
    try:
        yield
    finally:
        with _lock:  # another thread may have entered later and left earlier, or the reverse
            _blocks[:] = [other for other in _blocks if other is not block]
            _switch(_blocks[-1][0] if _blocks else _outside)


def current() -> str:
    """The backend in force: "auto" unless the environment or use_backend chose another."""
    return _current


def chosen(op: str, device: torch.device | str) -> str:
    """Name of the backend that executes ``pose_kernels::<op>`` on this device now."""
    kind = torch.device(device).type
    if _current == "reference":
        return "reference"
    if kind == "cpu":
        if _current == "triton" and interpreted() and op in triton_ops:
            return "triton"
        return "reference" if "cpp" in unavailable else "cpp"
    if kind == "cuda":
        if _current != "triton" and "cuda" not in unavailable:
            return "cuda"
        if "triton" not in unavailable and op in triton_ops:
            return "triton"
        return "reference" if "cuda" in unavailable else "cuda"
    return "reference"


def initialize() -> None:
    """Load what is there and apply POSE_KERNELS_BACKEND; called once, at import."""
    _load("cpp", "_C_cpu")
    _load("cuda", "_C_cuda")
    _find_triton()
    asked = os.environ.get("POSE_KERNELS_BACKEND", "auto") or "auto"
    if asked == "triton":
        _import_triton()
    if asked not in BACKENDS:
        reason = f"it must be one of {', '.join(BACKENDS)}"
    elif asked in unavailable:
        reason = unavailable[asked]
    else:
        _switch(asked)
        return
    warnings.warn(
        f"POSE_KERNELS_BACKEND={asked} is ignored: {reason}", RuntimeWarning, stacklevel=3
    )
    _switch("auto")
