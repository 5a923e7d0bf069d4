# SPDX-License-Identifier: Apache-2.0
"""flow_warp: the contract, answers worked by hand, and what holds for it alone."""

from __future__ import annotations

import functools
import itertools

import pytest
import torch
from cases import DTYPES, INF, NAN, Case, Inputs, channels_last, features, move
from contract import Contract
from contract_modes import Modes
from flows import tame_flow, visibilities, warp_bounds, warp_inputs, wild_flow
from hypothesis import strategies as st

import pose_kernels as pk
from pose_kernels.reference.flow_warp import MODES, PADDINGS


def case(name: str, shape, size, mode: str = "plain", padding: str = "zeros", **options) -> Case:
    return Case(name, functools.partial(warp_inputs, shape, size, mode, padding, **options))


CASES = [
    case("small", (2, 3, 6, 7), (5, 9)),
    case("gate-border", (1, 5, 7, 19), (8, 21), "gate", "border", low=True),
    case("expand", (1, 19, 6, 5), (3, 17), "expand"),
    case("expand-border", (2, 1, 4, 3), (6, 5), "expand", "border"),
    case("one-pixel", (1, 4, 1, 1), (3, 4)),
    case("one-pixel-border", (1, 3, 1, 1), (3, 4), "plain", "border"),
    case("one-row", (2, 2, 1, 9), (3, 3)),
    case("one-column", (3, 5, 40, 1), (9, 11), "plain", "border"),
    case("crowded", (1, 4, 2, 2), (16, 17)),
    case("long-rows", (1, 3, 3, 300), (2, 600), "gate"),
    case("no-images", (0, 3, 4, 5), (4, 5)),
    case("no-channels", (2, 0, 4, 5), (4, 5), "expand"),
    case("no-pixels", (2, 3, 4, 5), (4, 0)),
]


class TestFlowWarp(Contract, Modes):
    op = staticmethod(pk.flow_warp)
    reference = staticmethod(pk.reference.flow_warp)
    bounds = staticmethod(warp_bounds)
    CASES = CASES
    in_every_dtype = 3
    tame = case("tame", (2, 2, 3, 2), (2, 2), "expand", tame=True)
    collide = case("collide", (2, 3, 5, 5), (64, 64), "gate", "border")
    values, differentiable, outputs = "image", ("image", "flow"), ("warped",)
    # The plain warp alone would be a quarter of all that is touched: more than the room.
    realistic = [case("realistic", (2, 16, 256, 256), (256, 256), "expand")]
    sweep = st.builds(
        warp_inputs,
        shape=st.tuples(
            *[st.integers(low, high) for low, high in ((0, 3), (0, 6), (1, 9), (1, 9))]
        ),
        size=st.tuples(st.integers(0, 9), st.integers(0, 20)),
        mode=st.sampled_from(MODES),
        padding=st.sampled_from(PADDINGS),
        dtype=st.sampled_from(DTYPES),
        tame=st.booleans(),
        low=st.booleans(),
        seed=st.integers(0, 99),
    )

    def dispatched(self, inputs: Inputs):
        seen, mode, padding = (inputs.get(name) for name in ("visibility", "mode", "padding"))
        args = (inputs["image"], inputs["flow"], seen, MODES.index(mode), PADDINGS.index(padding))
        return torch.ops.pose_kernels.flow_warp.default, args

    def grown(self, by: int) -> Inputs:
        shape, size = (3 + by, 4 + by, 5 + by, 6 + by), (7 + by, 8 + by)
        return warp_inputs(shape, size, "gate", "zeros", torch.float32)


# One row of 0, 1, 2, 3 under one of 10, 11, 12, 13, read from output pixel (1, 0).
LITERAL = [
    ("zero flow", 0.0, 0.0, 1.0, 1.0),
    ("whole pixels", 2.0, 1.0, 13.0, 13.0),
    ("between two", 0.5, 0.0, 1.5, 1.5),
    ("between four", 0.25, 0.5, 6.25, 6.25),
    ("half outside", 2.5, 0.0, 1.5, 3.0),
    ("half outside, to the left", -1.5, 1.0, 5.0, 10.0),
    ("half above", 0.0, -0.5, 0.5, 1.0),
    ("a corner of it", 2.5, 1.5, 3.25, 13.0),
    ("outside", 3.0, 0.0, 0.0, 3.0),
    ("the last whole pixel before", -2.0, 0.0, 0.0, 0.0),
    ("far outside", 1e30, 0.0, 0.0, 3.0),
    ("far outside, to the left", -3e38, 1.0, 0.0, 10.0),
    ("NaN", NAN, 0.0, 0.0, 0.0),
    ("infinite", 0.0, -INF, 0.0, 0.0),
]


@pytest.mark.parametrize("row", LITERAL, ids=[row[0] for row in LITERAL])
def test_what_one_pixel_reads(place, row):
    _, x, y, zeros, border = row
    image = torch.tensor([[0.0, 1, 2, 3], [10, 11, 12, 13]], device=place.device)
    image = torch.stack([image, -2 * image])[None]
    flow = torch.zeros(1, 2, 1, 2, device=place.device)
    flow[0, :, 0, 1] = torch.tensor([x, y])
    for padding, value in (("zeros", zeros), ("border", border)):
        out = pk.flow_warp(image, flow, padding=padding)
        assert out[0, :, 0, 1].tolist() == [value, -2 * value]


def test_visibility(place):
    """0 visible, 1 occluded, 2 and everything else background."""
    image = torch.arange(1.0, 7).view(1, 1, 1, 6).to(place.device)
    seen = torch.tensor([[[0, 1, 2, 3, 255, 1]]], dtype=torch.uint8, device=place.device)
    flow = torch.zeros(1, 2, 1, 6, device=place.device)
    rows = {
        "plain": [[1, 2, 3, 4, 5, 6]],
        "gate": [[1, 2, 0, 0, 0, 6]],
        "expand": [[1, 0, 0, 0, 0, 0], [0, 2, 0, 0, 0, 6]],
    }
    for mode, expected in rows.items():
        out = pk.flow_warp(image, flow, seen, mode=mode)
        assert out[0, :, 0].tolist() == expected
    assert torch.equal(pk.flow_warp(image, flow), image)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("last", [False, True])
def test_grid_sample_agrees(place, padding, last):
    """To 1e-5 in float32, where the position itself is exact in its coordinates."""
    image = features((2, 3, 33, 65), torch.float64).to(place.device)
    flow = (torch.rand(2, 2, 33, 65, dtype=torch.float64) * 40 - 20).to(place.device)
    y, x = torch.meshgrid(torch.arange(33), torch.arange(65), indexing="ij")
    where = torch.stack([x, y]).to(place.device) + flow
    grid = torch.stack([where[:, 0] / 32 - 1, where[:, 1] / 16 - 1], -1)
    expected = torch.nn.functional.grid_sample(
        image, grid, align_corners=True, padding_mode=padding
    )
    image = channels_last(image) if last else image
    exact = pk.flow_warp(image, flow, padding=padding)
    torch.testing.assert_close(exact, expected, rtol=1e-12, atol=1e-12)
    single = pk.flow_warp(image.float(), flow.float(), padding=padding)
    torch.testing.assert_close(single.double(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("padding", PADDINGS)
def test_gradients_of_grid_sample_agree(place, padding):
    image = features((2, 3, 9, 17), torch.float64).to(place.device).requires_grad_()
    flow = (torch.rand(2, 2, 9, 17, dtype=torch.float64) * 16 - 8).to(place.device)
    flow.requires_grad_()
    y, x = torch.meshgrid(torch.arange(9), torch.arange(17), indexing="ij")
    where = torch.stack([x, y]).to(place.device) + flow
    grid = torch.stack([where[:, 0] / 8 - 1, where[:, 1] / 4 - 1], -1)
    expected = torch.nn.functional.grid_sample(
        image, grid, align_corners=True, padding_mode=padding
    )
    g = features((2, 3, 9, 17), torch.float64, 5).to(place.device)
    theirs = torch.autograd.grad(expected, (image, flow), g)
    ours = torch.autograd.grad(pk.flow_warp(image, flow, padding=padding), (image, flow), g)
    torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)


BITS = {
    torch.float64: torch.int64,
    torch.float32: torch.int32,
    torch.bfloat16: torch.int16,
    torch.float16: torch.int16,
}


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_zero_flow_is_the_identity_bit_for_bit(place, dtype, last):
    """The sign of 0 and infinities included; NaN stays NaN; nothing leaks to a neighbor."""
    image = features((2, 5, 9, 20), dtype)
    special = torch.tensor([NAN, INF, -INF, -0.0, torch.finfo(dtype).tiny], dtype=dtype)
    pick = torch.randint(0, 40, image.shape)
    image = image.where(pick >= 5, special[pick.clamp(max=4)]).to(place.device)
    image = channels_last(image) if last else image
    flow = torch.zeros(2, 2, 9, 20, dtype=dtype, device=place.device)
    seen = torch.zeros(2, 9, 20, dtype=torch.uint8, device=place.device)
    nan = image.isnan()
    bits = image.contiguous().view(BITS[dtype])
    for mode, padding in itertools.product(MODES, PADDINGS):
        out = pk.flow_warp(image, flow, seen, mode=mode, padding=padding)
        assert torch.equal(out[:, :5].isnan(), nan)
        same = (out[:, :5].contiguous().view(BITS[dtype]) == bits) | nan
        assert same.all()
        assert mode != "expand" or not out[:, 5:].any()
    (grad,) = torch.autograd.grad(
        pk.flow_warp(image.requires_grad_(), flow), image, torch.full_like(image, INF)
    )
    assert (grad == INF).all()  # 0 times infinity goes nowhere either


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(("mode", "padding"), list(itertools.product(MODES, PADDINGS)))
def test_gradient_of_the_image_is_the_adjoint(place, mode, padding, last):
    """<warp(x), y> = <x, gradient(y)> in float64."""
    inputs = warp_inputs((2, 5, 6, 7), (9, 11), mode, padding, torch.float64)
    inputs = move(inputs, place.device)
    x = channels_last(inputs["image"]) if last else inputs["image"]
    inputs["image"] = x.requires_grad_()
    out = pk.flow_warp(**inputs)
    y = features(tuple(out.shape), torch.float64, 8).to(place.device)
    (grad,) = torch.autograd.grad(out, x, y)
    left, right = (out.detach() * y).sum(), (x.detach() * grad).sum()
    assert abs(left - right) <= 1e-12 * (out.abs() * y.abs()).sum()


def test_whole_positions_have_the_derivative_to_the_right(place):
    image = torch.tensor([[1.0, 3, 7], [2, 5, 11]], device=place.device)[None, None]
    flow = torch.zeros(1, 2, 2, 3, device=place.device, requires_grad=True)
    expected = {
        "zeros": [[[2, 4, -7], [3, 6, -11]], [[1, 2, 4], [-2, -5, -11]]],
        "border": [[[2, 4, 0], [3, 6, 0]], [[1, 2, 4], [0, 0, 0]]],
    }
    for padding, rows in expected.items():
        (grad,) = torch.autograd.grad(pk.flow_warp(image, flow, padding=padding).sum(), flow)
        assert grad[0].tolist() == rows
    outside = torch.full((1, 2, 2, 3), 0.0, device=place.device)
    outside[0, 0] = -1 - torch.arange(3)  # all read column -1: 0, and image[0] to the right of it
    outside.requires_grad_()
    (grad,) = torch.autograd.grad(pk.flow_warp(image, outside).sum(), outside)
    assert grad[0, 0].tolist() == [[1, 1, 1], [2, 2, 2]]


@pytest.mark.parametrize("bad", [NAN, INF])
def test_what_is_not_taken_never_shows(place, bad):
    """Gradients that arrive on the background or at a flow that is not finite change nothing."""
    inputs = warp_inputs((2, 3, 8, 9), (9, 10), "gate", "border", torch.float32)
    inputs = move(inputs, place.device)
    contract = TestFlowWarp()
    (g,) = contract.incoming(inputs, contract.run(inputs))
    g = g.to(place.device)
    flow, seen = inputs["flow"], inputs["visibility"]
    outside = (~flow.isfinite().all(1) | (seen > 1))[:, None]
    clean = contract.gradients(contract.run, inputs, [g.masked_fill(outside, 0)])
    noisy = contract.gradients(contract.run, inputs, [g.masked_fill(outside, bad)])
    for a, b in zip([*clean[0], *clean[1].values()], [*noisy[0], *noisy[1].values()]):
        assert torch.equal(a, b) and a.isfinite().all()
    assert not clean[0][0].masked_select(outside).any()
    assert not clean[1]["flow"].masked_select(outside).any()
    far = torch.full_like(flow, 1e30).requires_grad_()
    out = pk.flow_warp(inputs["image"], far)
    (grad,) = torch.autograd.grad(out, far, g)
    assert not out.any() and not grad.any()


def test_the_fraction_of_a_small_flow_is_exact_far_from_the_origin(place):
    """x + F would lose three digits of F in float32 at x = 4000."""
    image = torch.arange(4096.0, dtype=torch.float64).remainder(2).float().view(1, 1, 1, 4096)
    flow = torch.zeros(1, 2, 1, 4096)
    flow[:, 0] = 1e-5
    out = pk.flow_warp(image.to(place.device), flow.to(place.device), padding="border")
    even = torch.tensor(1e-5).item()
    assert out[0, 0, 0, 4000].item() == even


@pytest.mark.parametrize("formats", list(itertools.product([False, True], repeat=2)))
def test_backward_of_mixed_memory_formats(place, formats):
    """grad and image each in a format of their own: grad_image in grad's."""
    inputs = warp_inputs((2, 5, 6, 7), (8, 9), "expand", "zeros", torch.float64)
    grad = features((2, 10, 8, 9), torch.float64, 7)
    args = (inputs["flow"], inputs["visibility"], 2, 0, True, True)
    op = torch.ops.pose_kernels.flow_warp_backward
    args = [x.to(place.device) if isinstance(x, torch.Tensor) else x for x in args]
    plain = [x.to(place.device) for x in (grad, inputs["image"])]
    stored = [channels_last(x) if last else x for x, last in zip(plain, formats, strict=True)]
    expected, got = op(*plain, *args), op(*stored, *args)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-11)
    assert got[0].is_contiguous() != formats[0]


def test_outputs_not_asked_for(place):
    inputs = move(warp_inputs((2, 3, 6, 7), (8, 9), "plain", "zeros", torch.float16), place.device)
    grad = features((2, 3, 8, 9), torch.float16, 7).to(place.device)
    args = (grad, inputs["image"], inputs["flow"], None, 0, 0)
    both = torch.ops.pose_kernels.flow_warp_backward(*args, True, True)
    for asked in range(2):
        some = torch.ops.pose_kernels.flow_warp_backward(*args, asked == 0, asked == 1)
        for k, (got, full) in enumerate(zip(some, both, strict=True)):
            assert torch.equal(got, full) if k == asked else got.shape == (0,)
            assert got.dtype == full.dtype


def test_planar_and_interleaved_bands(place):
    """Gradients that take several bands of rows and blocks of channels, in both formats."""
    shape, size = (1, 18, 70, 80), (60, 90)
    image = features(shape, torch.float32).to(place.device)
    flow = tame_flow(1, *size, *shape[2:], torch.float32).to(place.device)
    flow += wild_flow(1, *size, 3, 3, torch.float32).nan_to_num(0, 0, 0).clamp(-2, 2).to(flow)
    seen = visibilities(1, *size).to(place.device)
    g = features((1, 36, *size), torch.float32, 4).to(place.device)
    results = []
    for last in (False, True):
        x = (channels_last(image) if last else image).detach().requires_grad_()
        f = flow.detach().requires_grad_()
        out = pk.flow_warp(x, f, seen, mode="expand")
        results.append([out, *torch.autograd.grad(out, (x, f), channels_last(g) if last else g)])
    x, f = image.double().requires_grad_(), flow.double().requires_grad_()
    out = pk.reference.flow_warp(x, f, seen, mode="expand")
    expected = [out, *torch.autograd.grad(out, (x, f), g.double())]
    for run in results:
        for a, b in zip(run, expected, strict=True):
            torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-4)
