# SPDX-License-Identifier: Apache-2.0
"""flow_warp of csrc/cuda on CPU tensors: outputs poisoned, and guarded on both sides."""

from __future__ import annotations

from types import ModuleType

from torch import Tensor

from pose_kernels.reference.flow_warp import EXPAND

from .kernels import Output, _array, channels_last


class FlowKernels:
    def __init__(self, module: ModuleType) -> None:
        self.module = module
        self.shift = 0  # 1: outputs are unaligned

    def warp(
        self,
        image: Tensor,
        flow: Tensor,
        visibility: Tensor | None,
        mode: int,
        padding: int,
        *,
        last: bool,
    ) -> Tensor:
        N, C = image.shape[:2]
        channels = 2 * C if mode == EXPAND else C
        out = Output((N, channels, *flow.shape[2:]), image.dtype, last, self.shift)
        image = channels_last(image) if last else image.contiguous()
        arrays = [_array(x) for x in (image, flow, visibility)]
        name = str(image.dtype).removeprefix("torch.")
        self.module.flow_warp(name, *arrays, mode, padding == 1, _array(out.tensor))
        return out.check()

    def backward(
        self,
        grad: Tensor,
        image: Tensor,
        flow: Tensor,
        visibility: Tensor | None,
        mode: int,
        padding: int,
        *,
        last: bool,
        need: tuple[bool, bool] = (True, True),
    ) -> tuple[Tensor | None, Tensor | None]:
        grads = (
            Output(tuple(image.shape), image.dtype, last, self.shift) if need[0] else None,
            Output(tuple(flow.shape), flow.dtype, False, self.shift) if need[1] else None,
        )
        stored = [channels_last(x) if last else x.contiguous() for x in (grad, image)]
        arrays = [_array(x) for x in (*stored, flow, visibility)]
        to = [None if x is None else _array(x.tensor) for x in grads]
        name = str(image.dtype).removeprefix("torch.")
        self.module.flow_warp_backward(name, *arrays, mode, padding == 1, *to)
        by_image, by_flow = (None if x is None else x.check() for x in grads)
        return by_image, by_flow
