# SPDX-License-Identifier: Apache-2.0
"""The most memory that this process has had."""

from __future__ import annotations

import resource
import sys

import torch


def peak(device: torch.device) -> tuple[int, str]:
    """Bytes, and whose: of the GPU's allocator, or resident on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device), "allocated on the GPU"
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most * (1 if sys.platform == "darwin" else 1024), "resident"
