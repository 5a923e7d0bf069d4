# SPDX-License-Identifier: Apache-2.0
"""The emulated uv_raster kernels with tensors in and out."""

from __future__ import annotations

from types import ModuleType

from torch import Tensor

from .kernels import Output, _array, channels_last


class RasterKernels:
    """uv_raster and its backward of csrc/cuda, on CPU tensors."""

    def __init__(self, module: ModuleType) -> None:
        self.module = module
        self.shift = 0

    def uv_raster(
        self,
        image: Tensor,
        part: Tensor,
        uv: Tensor,
        P: int,
        S: int,
        max_edge: float,
        last: bool = False,
    ) -> tuple[Tensor, Tensor]:
        N, C = image.shape[:2]
        image = channels_last(image) if last else image.contiguous()
        atlas = Output((N, P, C, S, S), image.dtype, last, self.shift)
        weight = Output((N, P, S, S), uv.dtype, False, self.shift)
        name = str(image.dtype).removeprefix("torch.")
        tensors = (image, part, uv, atlas.tensor, weight.tensor)
        self.module.uv_raster(name, *map(_array, tensors), max_edge)
        return atlas.check(), weight.check()

    def uv_raster_backward(
        self,
        grad_atlas: Tensor,
        part: Tensor,
        uv: Tensor,
        weight: Tensor,
        max_edge: float,
        last: bool = False,
    ) -> Tensor:
        N, _, C = grad_atlas.shape[:3]
        grad_atlas = channels_last(grad_atlas) if last else grad_atlas.contiguous()
        output = Output((N, C, *part.shape[1:]), grad_atlas.dtype, last, self.shift)
        name = str(grad_atlas.dtype).removeprefix("torch.")
        tensors = (grad_atlas, part, uv, weight, output.tensor)
        self.module.uv_raster_backward(name, *map(_array, tensors), max_edge)
        return output.check()
