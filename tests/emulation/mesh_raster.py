# SPDX-License-Identifier: Apache-2.0
"""The emulated mesh_raster with tensors in and out: outputs poisoned, guarded on both sides."""

from __future__ import annotations

import math
from types import ModuleType

import torch
from torch import Tensor

from .capsule_mask import Output


class MeshKernels:
    """mesh_raster of csrc/cuda, on CPU tensors."""

    def __init__(self, module: ModuleType) -> None:
        self.module = module
        self.shift = 0

    def mesh_raster(
        self, vertices: Tensor, faces: Tensor, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        N = vertices.shape[0]
        face = Output((N, *size), torch.int32, 77, self.shift)
        bary = Output((N, 3, *size), vertices.dtype, math.nan, self.shift)
        arrays = (x.numpy() for x in (vertices, faces, face.tensor, bary.tensor))
        self.module.mesh_raster(str(vertices.dtype)[6:], *arrays)
        return face.check(), bary.check()
