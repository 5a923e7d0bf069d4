# SPDX-License-Identifier: Apache-2.0
"""The Triton kernels of region_crop without a GPU: see triton_worker.py, whose fixtures serve."""

from __future__ import annotations

import pytest
import test_region_crop
import torch
import triton_worker
from cases import channels_last, features
from triton_worker import ARCHS, PLACE, shared_tests

from pose_kernels.triton import region_crop as module

poisoned_memory = triton_worker.poisoned_memory
interpreted = triton_worker.interpreted
compiled = triton_worker.compiled

CROP = test_region_crop.TestRegionCrop()


@pytest.mark.parametrize(("function", "given"), shared_tests(test_region_crop))
def test_value_shared_tests(function, given):
    function(**given)


def test_value_matches_the_reference(monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 256)  # several programs per crop and image
    for sample in CROP.CASES:
        CROP.check(sample.make(torch.float32), "cpu")
    # bfloat16 is left out: the interpreter truncates where a GPU rounds to nearest.
    for dtype in (torch.float64, torch.float16):
        CROP.test_memory_formats(CROP.CASES[0], dtype, PLACE)
    CROP.test_strides(CROP.CASES[0], PLACE)


# ---- compilation


def both(dtype, last, C, H, W, K, size, center_dtype=torch.float32):
    image, center = features((2, C, H, W), dtype), torch.zeros(2, K, 2, dtype=center_dtype)
    image = channels_last(image) if last else image
    crops, _ = module.region_crop(image, center, size)
    module.region_crop_backward(crops, center, H, W)


KERNELS = {"_region_crop", "_region_crop_backward"}


@pytest.mark.parametrize("arch", ARCHS)
def test_compile_for_every_architecture(compiled, arch):
    for dtype, last in ((torch.float32, False), (torch.bfloat16, True)):
        assert set(compiled(arch, both, dtype, last, 3, 32, 40, 5, 16)) == KERNELS


def test_compile_other_sizes_and_dtypes(compiled):
    """Triton makes a constant of every integer that is 1."""
    assert set(compiled(90, both, torch.float16, False, 1, 1, 1, 1, 1)) == KERNELS
    double = (torch.float64, True, 7, 9, 11, 1, 1, torch.float64)
    assert set(compiled(90, both, *double)) == KERNELS
