# SPDX-License-Identifier: Apache-2.0
"""The emulated capsule kernels with tensors in and out: outputs poisoned, guarded on both sides."""

from __future__ import annotations

import math
from types import ModuleType

import torch
from torch import Tensor

from .kernels import GUARD, SENTINEL, _array


class Output:
    """A tensor full of `poison` inside a buffer whose margins must stay as they are."""

    def __init__(
        self, shape: tuple[int, ...], dtype: torch.dtype, poison: float, shift: int
    ) -> None:
        count = math.prod(shape)
        before = GUARD + shift  # a shift of 1 makes the output unaligned
        self.buffer = torch.empty(before + count + GUARD, dtype=dtype)
        self.buffer.view(torch.uint8).fill_(SENTINEL)
        self.margins = self.buffer[:before], self.buffer[before + count :]
        self.tensor = self.buffer[before : before + count].fill_(poison).view(shape)

    def check(self) -> Tensor:
        for margin in self.margins:
            assert (margin.view(torch.uint8) == SENTINEL).all(), "wrote out of bounds"
        return self.tensor


class CapsuleKernels:
    """capsule_mask, soft and its backward of csrc/cuda, on CPU tensors."""

    def __init__(self, module: ModuleType) -> None:
        self.module = module
        self.shift = 0

    def hard(
        self,
        start: Tensor,
        end: Tensor,
        radius: Tensor,
        part: Tensor,
        size: tuple[int, int, int],
        num_parts: int,
        packed: bool,
    ) -> Tensor:
        if packed:
            shape, dtype = (start.shape[0], *size), torch.int32
        else:
            shape, dtype = (start.shape[0], num_parts, *size), torch.uint8
        mask = Output(shape, dtype, 77, self.shift)
        arrays = (_array(x) for x in (start, end, radius, part, mask.tensor))
        self.module.capsule_mask(str(start.dtype)[6:], *arrays, num_parts)
        written = mask.check()
        if packed:
            return written
        assert (written <= 1).all()
        return written.bool()

    def soft(
        self,
        start: Tensor,
        end: Tensor,
        radius: Tensor,
        part: Tensor,
        size: tuple[int, int, int],
        num_parts: int,
        softness: float,
    ) -> Tensor:
        mask = Output((start.shape[0], num_parts, *size), start.dtype, math.nan, self.shift)
        arrays = (_array(x) for x in (start, end, radius, part, mask.tensor))
        self.module.capsule_soft_mask(str(start.dtype)[6:], *arrays, softness)
        return mask.check()

    def soft_backward(
        self,
        grad: Tensor,
        start: Tensor,
        end: Tensor,
        radius: Tensor,
        part: Tensor,
        softness: float,
    ) -> tuple[Tensor, ...]:
        if self.shift:  # an unaligned gradient
            storage = grad.new_empty(grad.numel() + self.shift)
            grad = storage[self.shift :].view(grad.shape).copy_(grad)
        outputs = [Output(tuple(start.shape), start.dtype, math.nan, self.shift) for _ in range(3)]
        arrays = (_array(x) for x in (grad, start, end, radius, part))
        self.module.capsule_soft_mask_backward(
            str(start.dtype)[6:], *arrays, softness, *(_array(x.tensor) for x in outputs)
        )
        return tuple(x.check() for x in outputs)
