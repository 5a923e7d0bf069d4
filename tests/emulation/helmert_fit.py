# SPDX-License-Identifier: Apache-2.0
"""The emulated helmert_fit with tensors in and out: outputs poisoned, and guarded on both sides."""

from __future__ import annotations

from types import ModuleType

from torch import Tensor

from .kernels import Output, _array


class Kernels:
    """helmert_fit and helmert_fit_backward of csrc/cuda, on CPU tensors."""

    def __init__(self, module: ModuleType) -> None:
        self.module = module
        self.shift = 0

    def _output(self, *shape: int, like: Tensor) -> Output:
        return Output(shape, like.dtype, False, self.shift)

    def helmert_fit(
        self, source: Tensor, target: Tensor, weight: Tensor, scale: bool = True
    ) -> Tensor:
        transform = self._output(len(source), 3, 4, like=source)
        dtype = str(source.dtype).removeprefix("torch.")
        arrays = [_array(x.contiguous()) for x in (source, target, weight)]
        self.module.helmert_fit(dtype, *arrays, scale, _array(transform.tensor))
        return transform.check()

    def helmert_fit_backward(
        self, grad: Tensor, source: Tensor, target: Tensor, weight: Tensor, scale: bool = True
    ) -> tuple[Tensor, Tensor, Tensor]:
        outputs = [self._output(*x.shape, like=x) for x in (source, target, weight)]
        dtype = str(source.dtype).removeprefix("torch.")
        arrays = [_array(x.contiguous()) for x in (grad, source, target, weight)]
        to = [_array(x.tensor) for x in outputs]
        self.module.helmert_fit_backward(dtype, *arrays, scale, *to)
        to_source, to_target, to_weight = (x.check() for x in outputs)
        return to_source, to_target, to_weight
