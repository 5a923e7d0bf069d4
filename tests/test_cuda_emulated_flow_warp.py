# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels of flow_warp, executed on the CPU: see test_cuda_emulated.py."""

from __future__ import annotations

import itertools

import pytest
import torch
from cases import features, geometry
from emulation import builder
from emulation.flow_warp import FlowKernels
from flows import visibilities, wild_flow
from test_cuda_emulated import DTYPES, FORMATS, close

from pose_kernels.reference.flow_warp import EXPAND, GATE, PLAIN, flow_warp_backward, warp

INF, NAN = float("inf"), float("nan")


@pytest.fixture
def kernels(request, tmp_path_factory):
    module = builder.emulated_module(request, tmp_path_factory)
    module.schedule(0)
    return FlowKernels(module)


def scene(shape, size, mode, padding, dtype=torch.float64):
    N, _, H, W = shape
    flow = wild_flow(N, *size, H, W, geometry(dtype))
    seen = None if mode == PLAIN else visibilities(N, *size)
    return features(shape, dtype), flow, seen, mode, padding


def incoming(image, flow, mode):
    channels = image.shape[1] * (2 if mode == EXPAND else 1)
    return features((image.shape[0], channels, *flow.shape[2:]), image.dtype, 9)


def check(kernels, layout, inputs, need=(True, True)):
    image, flow, _, mode, _ = inputs
    last, dtype = layout == "last", image.dtype
    out = kernels.warp(*inputs, last=last)
    assert out.dtype == dtype
    close(out, warp(*inputs), dtype)
    grad = incoming(image, flow, mode)
    got = kernels.backward(grad, *inputs, last=last, need=need)
    expected = flow_warp_backward(grad, *inputs, *need)
    if need[0]:
        close(got[0], expected[0], dtype)
    if need[1]:
        close(got[1], expected[1], flow.dtype)
    return out, *got


# N, C, H, W of the image, h, w of the flow, mode, padding
CASES = [
    ((2, 3, 9, 13), (7, 11), PLAIN, 0),
    ((1, 5, 17, 40), (12, 45), EXPAND, 1),
    ((1, 33, 9, 12), (10, 7), GATE, 0),
    ((1, 64, 5, 8), (4, 6), EXPAND, 0),
    ((1, 4, 1, 1), (5, 6), PLAIN, 0),
    ((2, 3, 2, 2), (5, 6), PLAIN, 1),
    ((1, 3, 1, 70), (3, 9), PLAIN, 1),
    ((2, 1, 40, 1), (9, 3), GATE, 1),
    ((0, 3, 4, 4), (4, 4), PLAIN, 0),
    ((2, 0, 4, 4), (4, 4), EXPAND, 0),
    ((1, 3, 4, 4), (0, 5), PLAIN, 0),
]


@pytest.mark.parametrize(("layout", "case"), list(itertools.product(FORMATS, CASES)))
def test_sizes(kernels, layout, case):
    check(kernels, layout, scene(*case))


VARIANTS = [
    (dtype, shape, shift)
    for dtype, shift in itertools.product(DTYPES, (0, 1))
    for shape in ((2, 3, 9, 16), (1, 40, 6, 10))
]


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize(("dtype", "shape", "shift"), VARIANTS)
def test_dtypes(kernels, layout, dtype, shape, shift):
    kernels.shift = shift
    check(kernels, layout, scene(shape, (8, 9), EXPAND, 0, dtype))


def test_many_chunks(kernels):
    """More than 32 chunks of 2,048 output pixels: a warp reads its list in several rounds."""
    image, flow, *rest = scene((1, 1, 8, 6), (65, 1040), PLAIN, 1)
    grad = incoming(image, flow, PLAIN)
    got = kernels.backward(grad, image, flow, *rest, last=False, need=(True, False))
    expected = flow_warp_backward(grad, image, flow, *rest, True, False)
    close(got[0], expected[0], torch.float64)


@pytest.mark.parametrize("layout", FORMATS)
def test_adjoint(kernels, layout):
    inputs = scene((2, 12, 9, 35), (11, 30), EXPAND, 0)
    out, by_image, _ = check(kernels, layout, inputs)
    grad = incoming(inputs[0], inputs[1], EXPAND)
    left, right = (out * grad).sum(), (inputs[0] * by_image).sum()
    assert abs(left - right) <= 1e-12 * (out * grad).abs().sum()


@pytest.mark.parametrize("layout", FORMATS)
def test_only_what_is_needed(kernels, layout):
    inputs = scene((1, 12, 6, 7), (8, 9), GATE, 0)
    grad = incoming(*inputs[:2], GATE)
    both = kernels.backward(grad, *inputs, last=layout == "last")
    for need in itertools.product([False, True], repeat=2):
        some = kernels.backward(grad, *inputs, last=layout == "last", need=need)
        for wanted, got, full in zip(need, some, both, strict=True):
            assert torch.equal(got, full) if wanted else got is None


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("C", [3, 20])
def test_zero_flow_is_the_identity(kernels, layout, C):
    """Bit for bit, with NaN beside, and infinite gradients back."""
    image = features((1, C, 6, 13), torch.float32)
    image[:, :, ::2, ::3] = torch.tensor(-0.0)
    image[:, :, 1::2, ::3] = NAN
    flow, last = torch.zeros(1, 2, 6, 13), layout == "last"
    for padding in (0, 1):
        out = kernels.warp(image, flow, None, PLAIN, padding, last=last)
        assert torch.equal(out.contiguous().view(torch.int32), image.view(torch.int32))
        grad = torch.full_like(image, INF)
        by_image, _ = kernels.backward(
            grad, image, flow, None, PLAIN, padding, last=last, need=(True, False)
        )
        assert torch.equal(by_image, grad)


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("C", [3, 20])
def test_same_bits_in_every_order_of_threads(kernels, layout, C):
    inputs = scene((1, C, 10, 40), (20, 40), EXPAND, 1, torch.float32)
    grad = incoming(*inputs[:2], EXPAND)
    runs = []
    for order in (0, 1, 2):
        kernels.module.schedule(order)
        last = layout == "last"
        runs.append([kernels.warp(*inputs, last=last), *kernels.backward(grad, *inputs, last=last)])
    for run in runs[1:]:
        assert all(torch.equal(x, y) for x, y in zip(run, runs[0], strict=True))
