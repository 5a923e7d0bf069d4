# SPDX-License-Identifier: Apache-2.0
"""The emulated kernels with tensors in and out: outputs poisoned, and guarded on both sides."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

GUARD = 64  # elements before and after every output
SENTINEL = 0x5A  # byte they consist of


def geometry(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def channels_last(x: Tensor) -> Tensor:
    """The same values with channels innermost in memory; x is (..., C, H, W)."""
    return x.movedim(-3, -1).contiguous().movedim(-1, -3)


def _array(x: Tensor | None) -> Any:
    if x is None:
        return None
    return (x.view(torch.int16) if x.dtype in (torch.float16, torch.bfloat16) else x).numpy()


class Output:
    """A tensor full of NaN inside a buffer whose margins must stay as they are."""

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, last: bool, shift: int) -> None:
        stored = (*shape[:-3], *shape[-2:], shape[-3]) if last else shape
        count = math.prod(shape)
        self.before = GUARD + shift  # a shift of 1 makes the output unaligned
        self.buffer = torch.empty(self.before + count + GUARD, dtype=dtype)
        self.buffer.view(torch.uint8).fill_(SENTINEL)
        body = self.buffer[self.before : self.before + count]
        body.fill_(math.nan)
        self.tensor = body.view(stored)
        if last:
            self.tensor = self.tensor.movedim(-1, -3)
        self.count = count

    def check(self) -> Tensor:
        for margin in (self.buffer[: self.before], self.buffer[self.before + self.count :]):
            assert (margin.contiguous().view(torch.uint8) == SENTINEL).all(), "wrote out of bounds"
        return self.tensor


class Kernels:
    """uv_splat, uv_splat_backward, uv_gather and push_pull of csrc/cuda, on CPU tensors."""

    def __init__(self, module: ModuleType) -> None:
        self.module = module
        self.shift = 0
        self.shared_memory = 227 * 1024

    def uv_splat(
        self,
        image: Tensor,
        part: Tensor,
        uv: Tensor,
        P: int,
        S: int,
        *,
        last: bool = False,
        normalize: bool = True,
        min_weight: float = 1e-3,
        with_weight: bool = True,
    ) -> tuple[Tensor, Tensor | None]:
        N, C = image.shape[:2]
        image = channels_last(image) if last else image.contiguous()
        atlas = Output((N, P, C, S, S), image.dtype, last, self.shift)
        weight = Output((N, P, S, S), uv.dtype, False, self.shift) if with_weight else None
        self.module.uv_splat(
            str(image.dtype).removeprefix("torch."),
            *(_array(x) for x in (image, part, uv, atlas.tensor)),
            _array(weight.tensor) if weight else None,
            normalize,
            min_weight,
        )
        return atlas.check(), weight.check() if weight else None

    def uv_splat_backward(
        self,
        grad_atlas: Tensor,
        grad_weight: Tensor | None,
        image: Tensor | None,
        part: Tensor,
        uv: Tensor,
        atlas: Tensor | None,
        weight: Tensor | None,
        *,
        last: bool = False,
        min_weight: float = 1e-3,
        need_image: bool = True,
        need_uv: bool = True,
    ) -> tuple[Tensor | None, Tensor | None]:
        N, _, C = grad_atlas.shape[:3]
        if last:
            grad_atlas = channels_last(grad_atlas)
            image = None if image is None else channels_last(image)
            atlas = None if atlas is None else channels_last(atlas)
        shape = (N, C, *part.shape[1:])
        grad_image = Output(shape, grad_atlas.dtype, last, self.shift) if need_image else None
        grad_uv = Output(tuple(uv.shape), uv.dtype, False, self.shift) if need_uv else None
        self.module.uv_splat_backward(
            str(grad_atlas.dtype).removeprefix("torch."),
            *(_array(x) for x in (grad_atlas, grad_weight, image, part, uv, atlas, weight)),
            min_weight,
            _array(grad_image.tensor) if grad_image else None,
            _array(grad_uv.tensor) if grad_uv else None,
        )
        return grad_image.check() if grad_image else None, grad_uv.check() if grad_uv else None

    def uv_gather(self, atlas: Tensor, part: Tensor, uv: Tensor, *, last: bool = False) -> Tensor:
        N, _, C = atlas.shape[:3]
        atlas = channels_last(atlas) if last else atlas.contiguous()
        image = Output((N, C, *part.shape[1:]), atlas.dtype, last, self.shift)
        self.module.uv_gather(
            str(atlas.dtype).removeprefix("torch."),
            *(_array(x) for x in (atlas, part, uv, image.tensor)),
        )
        return image.check()

    def push_pull(
        self,
        atlas: Tensor,
        weight: Tensor,
        radius: int = -1,
        *,
        min_weight: float = 1e-3,
        adjoint: bool = False,
        last: bool = False,
    ) -> Tensor:
        atlas = channels_last(atlas) if last else atlas.contiguous()
        filled = Output(tuple(atlas.shape), atlas.dtype, last, self.shift)
        self.used_workspace = self.module.push_pull(
            str(atlas.dtype).removeprefix("torch."),
            *(_array(x) for x in (atlas, weight, filled.tensor)),
            radius,
            min_weight,
            adjoint,
            self.shared_memory,
        )
        return filled.check()
