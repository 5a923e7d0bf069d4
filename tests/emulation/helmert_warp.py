# SPDX-License-Identifier: Apache-2.0
"""helmert_warp of csrc/cuda on CPU tensors: outputs poisoned, and guarded on both sides."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from torch import Tensor

from .kernels import Output, _array, channels_last


def _flat(x: Tensor, last: bool) -> Tensor:
    """(N, C, D, H, W) as (N, C, D H, W) in a memory format."""
    x = x.flatten(2, 3)
    return channels_last(x) if last else x.contiguous()


class WarpKernels:
    def __init__(self, module: ModuleType) -> None:
        self.module = module
        self.shift = 0  # 1: outputs are unaligned

    def warp(self, volume: Tensor, mask: Tensor, transform: Tensor, *, last: bool) -> Tensor:
        N, C, D, H, W = volume.shape
        out = Output((N, C, D * H, W), volume.dtype, last, self.shift)
        self._call("helmert_warp", volume, _flat(volume, last), mask, transform, D, out.tensor)
        return out.check().unflatten(2, (D, H))

    def backward(
        self,
        grad: Tensor,
        volume: Tensor,
        mask: Tensor,
        transform: Tensor,
        *,
        last: bool,
        volume_last: bool | None = None,
        need: tuple[bool, bool, bool] = (True, True, True),
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Gradients of volume, mask (never of bits) and transform; None where not needed."""
        N, C, D, H, W = volume.shape
        P = transform.shape[1]
        grads: list[Output | None] = [None, None, None]
        if need[0]:
            grads[0] = Output((N, C, D * H, W), volume.dtype, last, self.shift)
        if need[1] and mask.is_floating_point():
            grads[1] = Output((N, P, D * H, W), mask.dtype, False, self.shift)
        if need[2]:
            grads[2] = Output((N, P, 3, 4), transform.dtype, False, self.shift)
        other = _flat(volume, last if volume_last is None else volume_last)
        self._call(
            "helmert_warp_backward",
            volume,
            *(_flat(grad, last), other, mask, transform, D),
            *(None if x is None else x.tensor for x in grads),
        )
        done = [None if x is None else x.check() for x in grads]
        return (
            None if done[0] is None else done[0].unflatten(2, (D, H)),
            None if done[1] is None else done[1].unflatten(2, (D, H)),
            done[2],
        )

    def _call(self, name: str, like: Tensor, *args: Any) -> Any:
        dtype = str(like.dtype).removeprefix("torch.")
        arrays = (_array(x) if isinstance(x, Tensor) else x for x in args)
        return getattr(self.module, name)(dtype, *arrays)
