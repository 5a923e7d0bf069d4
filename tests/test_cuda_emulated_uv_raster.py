# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels of uv_raster, executed on the CPU: see test_cuda_emulated.py."""

from __future__ import annotations

import pytest
import torch
from cases import NAN, assert_within, features
from emulation import builder
from emulation.uv_raster import RasterKernels
from raster import raster_bounds, raster_inputs

from pose_kernels.reference.uv_raster import uv_raster, uv_raster_backward

f64, f32 = torch.float64, torch.float32


@pytest.fixture
def kernels(request, tmp_path_factory):
    module = builder.emulated_module(request, tmp_path_factory)
    module.schedule(0)
    return RasterKernels(module)


# (N, C, H, W), P, S, dtype of part, of image, channels last, shift of the output, max_edge
CASES = [
    ((2, 3, 9, 13), 3, 7, torch.uint8, f64, False, 0, 0.4),
    ((1, 3, 12, 14), 1, 41, torch.int32, f64, False, 0, 0.3),
    ((1, 2, 14, 15), 1, 96, torch.int64, f32, False, 0, 0.12),  # bands and columns, lookback
    ((1, 9, 8, 9), 2, 12, torch.int64, f32, True, 0, 5.0),
    ((1, 13, 8, 9), 2, 11, torch.uint8, torch.float16, False, 1, 0.4),
    ((1, 16, 8, 9), 2, 16, torch.uint8, torch.bfloat16, True, 1, 0.4),
    ((1, 1, 6, 6), 2, 5, torch.uint8, f32, False, 0, 0.0),
    ((1, 1, 1, 1), 1, 1, torch.uint8, f32, False, 0, 0.4),
    ((1, 2, 5, 5), 2, 1, torch.uint8, f32, False, 0, 0.4),
    ((1, 2, 9, 1), 2, 5, torch.uint8, f64, False, 0, 0.4),
    ((0, 3, 4, 4), 2, 4, torch.uint8, f32, False, 0, 0.4),
    ((1, 0, 6, 6), 2, 6, torch.uint8, f32, False, 0, 0.6),
    ((1, 3, 0, 5), 2, 4, torch.uint8, f32, False, 0, 0.4),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_sizes(kernels, case):
    shape, P, S, part_dtype, dtype, last, kernels.shift, max_edge = case
    inputs = raster_inputs(shape, P, S, part_dtype, dtype, max_edge=max_edge)
    image, part, uv = (inputs[k] for k in ("image", "part", "uv"))
    expected, expected_weight = uv_raster(**inputs)
    grad = features(tuple(expected.shape), dtype, 8)
    bounds = raster_bounds(inputs, [expected, expected_weight], [grad])
    atlas, weight = kernels.uv_raster(image, part, uv, P, S, max_edge, last)
    assert_within(atlas, expected, bounds["atlas"], "atlas")
    assert_within(weight, expected_weight, bounds["weight"], "weight")
    back = kernels.uv_raster_backward(grad, part, uv, weight, max_edge, last)
    expected_back = uv_raster_backward(grad, part, uv, weight, max_edge)
    assert_within(back, expected_back, bounds["image"], "gradient to image")


@pytest.mark.parametrize("last", [False, True])
def test_same_bits_in_every_order_of_threads(kernels, last):
    inputs = raster_inputs((1, 3, 20, 30), 2, 24, torch.uint8, f32, max_edge=2.0, noise=9.0)
    image, part, uv = (inputs[k] for k in ("image", "part", "uv"))
    runs = []
    for order in (0, 1, 2, 3):
        kernels.module.schedule(order)
        atlas, weight = kernels.uv_raster(image, part, uv, 2, 24, 2.0, last)
        back = kernels.uv_raster_backward(atlas, part, uv, weight, 2.0, last)
        runs.append((atlas, weight, back))
    assert runs[0][1].max() > 8
    for run in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(run, runs[0], strict=True))


def test_adjoint_and_many_chunks(kernels):
    """More than 32 chunks of 2,048 pixels: a warp reads its list in several rounds."""
    inputs = raster_inputs((1, 1, 65, 1040), 2, 12, torch.uint8, f64, max_edge=0.12, wild=20)
    image, part, uv = (inputs[k] for k in ("image", "part", "uv"))
    atlas, weight = kernels.uv_raster(image, part, uv, 2, 12, 0.12)
    expected = uv_raster(**inputs)
    torch.testing.assert_close(atlas, expected[0], rtol=0, atol=1e-9)
    torch.testing.assert_close(weight, expected[1], rtol=1e-9, atol=0)
    y = features(tuple(atlas.shape), f64, 3)
    back = kernels.uv_raster_backward(y, part, uv, weight, 0.12)
    left, right = (atlas * y).sum(), (image * back).sum()
    assert abs(left - right) <= 1e-12 * (atlas * y).abs().sum()


def test_nothing_is_read_from_the_background(kernels):
    inputs = raster_inputs((1, 3, 12, 12), 2, 16, torch.uint8, f64)
    image, part, uv = (inputs[k] for k in ("image", "part", "uv"))
    part[:, :5] = 0
    expected = kernels.uv_raster(image, part, uv, 2, 16, 0.4)
    image[:, :, :5] = NAN
    actual = kernels.uv_raster(image, part, uv, 2, 16, 0.4)
    assert torch.equal(actual[0], expected[0]) and torch.equal(actual[1], expected[1])
    grad = features(tuple(actual[0].shape), f64, 3)
    weight = actual[1]
    clean = kernels.uv_raster_backward(grad, part, uv, weight, 0.4)
    grad = grad.masked_fill((weight == 0)[:, :, None], NAN)
    assert torch.equal(kernels.uv_raster_backward(grad, part, uv, weight, 0.4), clean)
    assert clean[:, :, :5].abs().max() == 0 and clean.abs().max() > 0
