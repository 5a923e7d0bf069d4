# SPDX-License-Identifier: Apache-2.0
"""The emulated region_crop with tensors in and out: outputs poisoned, and guarded on both sides."""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from .kernels import GUARD, SENTINEL, Output, _array, channels_last


class CropKernels:
    """region_crop and its adjoint of csrc/cuda, on CPU tensors."""

    def __init__(self, module: ModuleType) -> None:
        self.module = module
        self.shift = 0

    def region_crop(
        self, image: Tensor, center: Tensor, size: int, *, last: bool = False
    ) -> tuple[Tensor, Tensor]:
        (N, K, _), C = center.shape, image.shape[1]
        image = channels_last(image) if last else image.contiguous()
        crops = Output((N, K, C, size, size), image.dtype, last, self.shift)
        bytes_ = torch.full((N * K + 2 * GUARD,), SENTINEL, dtype=torch.uint8)
        valid = bytes_[GUARD : GUARD + N * K].view(N, K)
        arrays = [_array(x) for x in (image, center.contiguous(), crops.tensor, valid)]
        self.module.region_crop(*arrays)
        margins = torch.cat([bytes_[:GUARD], bytes_[GUARD + N * K :]])
        assert (margins == SENTINEL).all() and (valid <= 1).all()
        return crops.check(), valid.bool()

    def region_crop_backward(
        self, grad: Tensor, center: Tensor, height: int, width: int, *, last: bool = False
    ) -> Tensor:
        (N, _, _), C = center.shape, grad.shape[2]
        grad = channels_last(grad) if last else grad.contiguous()
        grad_image = Output((N, C, height, width), grad.dtype, last, self.shift)
        name = str(grad.dtype).removeprefix("torch.")
        arrays = [_array(x) for x in (grad, center.contiguous(), grad_image.tensor)]
        self.module.region_crop_backward(name, *arrays)
        return grad_image.check()
