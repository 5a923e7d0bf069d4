# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels of region_crop, executed on the CPU: see test_cuda_emulated.py."""

from __future__ import annotations

import pytest
import torch
from cases import features
from emulation import builder
from emulation.region_crop import CropKernels
from test_region_crop import wild_centers

from pose_kernels.reference.region_crop import region_crop, region_crop_backward

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


@pytest.fixture
def kernels(request, tmp_path_factory):
    module = builder.emulated_module(request, tmp_path_factory)
    module.schedule(0)
    return CropKernels(module)


# (N, C, H, W), K, size: several blocks per crop, lists longer than a block, channels beyond those
# of a warp, rows of one pixel
SIZES = [
    ((2, 3, 9, 13), 4, 5),
    ((1, 8, 6, 10), 5, 4),
    ((1, 3, 40, 41), 3, 37),
    ((1, 2, 70, 5), 300, 3),
    ((1, 161, 4, 7), 3, 3),
    ((1, 160, 3, 4), 2, 2),
    ((3, 1, 1, 1), 2, 1),
    ((1, 5, 40, 1), 6, 1),
    ((0, 3, 4, 4), 2, 2),
    ((2, 0, 4, 4), 2, 2),
]


def check(kernels, shape, K, size, dtype, last, center_dtype=torch.float32):
    """Bit for bit the reference: copies, and sums in the same order."""
    N, C, H, W = shape
    image, center = features(shape, dtype), wild_centers(N, K, H, W, center_dtype, 3)
    crops, valid = kernels.region_crop(image, center, size, last=last)
    expected, expected_valid = region_crop(image, center, size)
    assert torch.equal(crops, expected) and torch.equal(valid, expected_valid)
    grad = features((N, K, C, size, size), dtype, 4)
    got = kernels.region_crop_backward(grad, center, H, W, last=last)
    assert torch.equal(got, region_crop_backward(grad, center, H, W))


@pytest.mark.parametrize("last", [False, True], ids=["planar", "last"])
@pytest.mark.parametrize("problem", SIZES, ids=str)
def test_sizes(kernels, problem, last):
    check(kernels, *problem, torch.float64, last, torch.float64)


@pytest.mark.parametrize("last", [False, True], ids=["planar", "last"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("C", [3, 4, 8])
def test_dtypes(kernels, dtype, C, last):
    """Aligned and not: pixels of 2, 4, 8 and 16 bytes."""
    for kernels.shift in (0, 1):
        check(kernels, (2, C, 7, 8), 4, 3, dtype, last)


@pytest.mark.parametrize("last", [False, True], ids=["planar", "last"])
def test_same_bits_in_every_order_of_threads(kernels, last):
    center = wild_centers(1, 280, 12, 13, torch.float32, 5)
    grad = features((1, 280, 3, 6, 6), torch.float32, 6)
    runs = []
    for order in (0, 1, 2, 3):
        kernels.module.schedule(order)
        runs.append(kernels.region_crop_backward(grad, center, 12, 13, last=last))
    assert all(torch.equal(run, runs[0]) for run in runs[1:])
    assert runs[0].abs().max() > 1


def test_crops_that_hold_nothing_are_not_read(kernels):
    """NaN arriving at a crop without a center; NaN in the image outside of every window."""
    nan = float("nan")
    center = torch.tensor([[[nan, 3.0], [4.0, 4.0]]])
    grad = features((1, 2, 3, 4, 4), torch.float32)
    grad[0, 0] = nan
    back = kernels.region_crop_backward(grad, center, 9, 9)
    assert torch.equal(back[0, :, 2:6, 2:6], grad[0, 1])
    assert back.count_nonzero() == grad[0, 1].count_nonzero()
    image = torch.full((1, 3, 9, 9), nan)
    image[:, :, 2:6, 2:6] = grad[:, 1]
    crops, valid = kernels.region_crop(image, center, 4)
    assert torch.equal(crops[0, 1], grad[0, 1]) and crops[0, 0].count_nonzero() == 0
    assert valid.tolist() == [[False, True]]
