# SPDX-License-Identifier: Apache-2.0
"""Triton kernels: what runs CUDA tensors where the compiled library is not there.

Importing this package imports no triton and compiles nothing: that happens at the first call of an
op, and a kernel is compiled on first use, per dtype, memory format and number of channels.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any


def _on_first_use(module: str, name: str) -> Callable[..., Any]:
    def launch(*args: Any) -> Any:
        return getattr(import_module(f"{__name__}.{module}"), name)(*args)

    return launch


# Name of the dispatcher op -> launcher with exactly its arguments.
KERNELS: dict[str, Callable[..., Any]] = {
    "uv_splat": _on_first_use("uv_splat", "uv_splat"),
    "uv_splat_backward": _on_first_use("uv_splat", "uv_splat_backward"),
    "uv_gather": _on_first_use("uv_gather", "uv_gather"),
}
