# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels of heatmap, executed on the CPU: see test_cuda_emulated.py."""

from __future__ import annotations

import pytest
import torch
from emulation import builder
from emulation.heatmap import HeatmapKernels
from torch import Tensor

from pose_kernels.reference.heatmap import maps, maps_backward

NAN, INF = float("nan"), float("inf")
DTYPES = (torch.float32, torch.float64)


@pytest.fixture
def kernels(request, tmp_path_factory):
    module = builder.emulated_module(request, tmp_path_factory)
    module.schedule(0)
    return HeatmapKernels(module)


def joints(N: int, J: int, size: tuple[int, ...], stride: tuple[float, ...], dtype, seed=0):
    """In and around the grid; some not finite, some far away."""
    random = torch.Generator().manual_seed(seed)
    span = torch.tensor(size[::-1]) * torch.tensor(stride)
    points = (torch.rand((N, J, len(size)), generator=random) * 1.4 - 0.2) * span
    special = torch.tensor([NAN, INF, -INF, 1e30, -3e38])
    pick = torch.randint(0, 30, points.shape, generator=random)
    return points.where(pick >= len(special), special[pick % len(special)]).to(dtype)


def incoming(shape, dtype, seed=9) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return (torch.rand(shape, generator=random, dtype=torch.float64) * 2 - 1).to(dtype)


def close(actual: Tensor, expected: Tensor, scale: float) -> None:
    assert actual.shape == expected.shape and actual.dtype == expected.dtype
    if expected.numel():
        error = float((actual - expected).abs().max())
        assert error <= scale * torch.finfo(actual.dtype).eps


# N, J, size, stride; bands of rows, of columns (more than 1,024), odd and divisible by four
CASES = [
    (2, 3, (9, 13), (1, 1)),
    (1, 2, (8, 12), (2, 0.5)),
    (1, 1, (1, 1), (1, 1)),
    (1, 3, (70, 300), (1.5, 1)),
    (1, 2, (3, 1027), (1, 1)),
    (1, 2, (2, 2052), (0.25, 8)),
    (1, 1, (1500, 2), (4, 0.1)),
    (2, 2, (5, 6, 7), (1, 2, 3)),
    (1, 2, (20, 33, 32), (1, 1, 1.5)),
    (2, 1, (1, 1, 1), (1, 1, 1)),
    (0, 3, (4, 4), (1, 1)),
    (2, 0, (4, 4, 4), (1, 1, 1)),
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", [0, 1, 2])
@pytest.mark.parametrize("problem", CASES, ids=str)
def test_sizes(kernels, problem, kind, dtype):
    N, J, size, stride = problem
    points = joints(N, J, size, stride, dtype)
    sigma = 2.7  # no squared distance of these points is the squared radius
    actual = kernels.heatmap(points, size, sigma, stride, kind)
    expected = maps(points, size, sigma, stride, kind)
    close(actual, expected, 20 * max(1.0, max(size) * max(stride) / sigma) if kind == 0 else 0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("problem", CASES, ids=str)
def test_sizes_of_the_backward(kernels, problem, dtype):
    N, J, size, stride = problem
    points, grad = joints(N, J, size, stride, dtype), incoming((N, J, *size), dtype)
    actual = kernels.heatmap_backward(grad, points, 2.7, stride)
    expected = maps_backward(grad, points, 2.7, stride)
    assert expected.isfinite().all()
    terms = float(maps(points, size, 2.7, stride, 0).sum((2, 3)).max()) if N * J else 1.0
    close(actual, expected, 8 * (20 + terms) * max(1.0, max(size) * max(stride)))
    if N * J:
        rows = torch.tensor(size[:-1]).prod()
        assert kernels.used_workspace == bool(rows * min(size[-1], 1024) > 16384 or rows > 1024)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shift", [1, 2, 3])
def test_offsets(kernels, shift, dtype):
    """Rows of whole vectors in memory that is not aligned to them."""
    size, stride = (10, 16), (1, 1)
    points = joints(1, 2, size, stride, dtype)
    expected = kernels.heatmap(points, size, 2.5, stride)
    grad = incoming(expected.shape, dtype)
    expected_grad = kernels.heatmap_backward(grad, points, 2.5, stride)
    kernels.shift = shift
    assert torch.equal(kernels.heatmap(points, size, 2.5, stride), expected)
    buffer = torch.empty(grad.numel() + shift, dtype=dtype)
    moved = buffer[shift:].view(grad.shape).copy_(grad)
    actual = kernels.heatmap_backward(moved, points, 2.5, stride)
    close(actual, expected_grad, 2000)


def test_same_bits_in_every_order_of_threads(kernels):
    size, stride = (40, 520), (1, 1)
    points = joints(1, 2, size, stride, torch.float32, 3)
    points[0, 0] = torch.tensor([100.5, 20.25])
    grad = incoming((1, 2, *size), torch.float32)
    runs = []
    for order in (0, 1, 2, 3):
        kernels.module.schedule(order)
        there = kernels.heatmap(points, size, 9.0, stride)
        runs.append((there, kernels.heatmap_backward(grad, points, 9.0, stride)))
    assert runs[0][1].abs().max() > 0 and kernels.used_workspace
    for there, back in runs[1:]:
        assert torch.equal(there, runs[0][0]) and torch.equal(back, runs[0][1])


def test_by_hand(kernels):
    points = torch.tensor([[[1.0, 0.0], [NAN, 0.0]]])
    disc = kernels.heatmap(points, (2, 3), 1.0, (1, 1), 1)
    assert disc.tolist() == [[[[1, 1, 1], [0, 1, 0]], [[0, 0, 0], [0, 0, 0]]]]
    impulse = kernels.heatmap(points, (2, 3), 0.0, (2, 1), 2)
    assert impulse.tolist() == [[[[0, 1, 0], [0, 0, 0]], [[0, 0, 0], [0, 0, 0]]]]
    grad = torch.zeros(1, 2, 2, 3)
    grad[:, :, 0, 2] = 1.0
    back = kernels.heatmap_backward(grad, points, 1.0, (1, 1))
    expected = torch.tensor([[[0.60653067, 0.0], [0.0, 0.0]]])
    torch.testing.assert_close(back, expected, rtol=1e-6, atol=0)


def test_gradients_too_far_to_count_are_not_read(kernels):
    """NaN arriving where the map is 0, or at a map without a point, changes nothing."""
    points = torch.tensor([[[20.0, 3.0], [NAN, 3.0]]])
    grad = incoming((1, 2, 8, 200), torch.float32)
    clean = kernels.heatmap_backward(grad, points, 2.0, (1, 1))
    grad[:, :, :, 60:] = NAN
    grad[:, 1] = INF
    assert torch.equal(kernels.heatmap_backward(grad, points, 2.0, (1, 1)), clean)
    assert clean[0, 0].abs().min() > 0 and clean[0, 1].abs().max() == 0
