# SPDX-License-Identifier: Apache-2.0
"""The emulated heatmap kernels with tensors in and out."""

from __future__ import annotations

from types import ModuleType

from torch import Tensor

from .kernels import Output


class HeatmapKernels:
    """heatmap and its backward of csrc/cuda, on CPU tensors."""

    def __init__(self, module: ModuleType) -> None:
        self.module = module
        self.shift = 0

    def heatmap(
        self,
        points: Tensor,
        size: tuple[int, ...],
        sigma: float,
        stride: tuple[float, ...],
        kind: int = 0,
    ) -> Tensor:
        output = Output((*points.shape[:2], *size), points.dtype, False, self.shift)
        name = str(points.dtype).removeprefix("torch.")
        self.module.heatmap(name, points.numpy(), output.tensor.numpy(), sigma, list(stride), kind)
        return output.check()

    def heatmap_backward(
        self, grad: Tensor, points: Tensor, sigma: float, stride: tuple[float, ...]
    ) -> Tensor:
        output = Output(tuple(points.shape), points.dtype, False, self.shift)
        name = str(points.dtype).removeprefix("torch.")
        self.used_workspace = self.module.heatmap_backward(
            name, grad.numpy(), points.numpy(), output.tensor.numpy(), sigma, list(stride)
        )
        return output.check()
