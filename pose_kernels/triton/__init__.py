# SPDX-License-Identifier: Apache-2.0
"""Triton kernels: what runs CUDA tensors where the compiled library is not there.

Importing this package imports no triton and compiles nothing: that happens at the first call of an
op, and a kernel is compiled on first use, per dtype, memory format and number of channels.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

# Name of the dispatcher op -> module here that holds its launcher, under the same name and with
# exactly the op's arguments.
OPS = {
    "capsule_mask": "capsule_mask",
    "capsule_soft_mask": "capsule_mask",
    "capsule_soft_mask_backward": "capsule_mask",
    "flow_warp": "flow_warp",
    "flow_warp_backward": "flow_warp",
    "heatmap": "heatmap",
    "heatmap_backward": "heatmap",
    "helmert_warp": "helmert_warp",
    "helmert_warp_backward": "helmert_warp",
    "region_crop": "region_crop",
    "region_crop_backward": "region_crop",
    "uv_gather": "uv_gather",
    "uv_splat": "uv_splat",
    "uv_splat_backward": "uv_splat",
}


def load(op: str) -> Callable[..., Any]:
    """The launcher of an op; imports triton, whatever that raises."""
    return getattr(import_module(f"{__name__}.{OPS[op]}"), op)
