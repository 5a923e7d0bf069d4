# SPDX-License-Identifier: Apache-2.0
"""heatmap: answers worked by hand, parity with the formula in float64, gradients of every order.

What it promises about PyTorch's modes and about wrong arguments is in test_heatmap_modes.py.
"""

from __future__ import annotations

import inspect

import pytest
import torch
from heatmap_problems import INF, NAN, PROBLEMS, Exact, Problem, geometry
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

import pose_kernels as pk
from pose_kernels.reference.heatmap import maps as reference_maps

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def within(actual: Tensor, expected: Tensor, bound: Tensor) -> None:
    assert actual.shape == expected.shape
    error = (actual.detach().cpu().double() - expected).abs()
    assert (error <= bound).all(), f"off by {error.max():.3g}, {(error / bound).max():.3g} of it"


# ---- values


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", PROBLEMS)
def test_gaussian_and_its_gradient(place, name, dtype):
    check_gaussian(place, PROBLEMS[name], dtype)


def check_gaussian(place, problem: Problem, dtype: torch.dtype) -> None:
    points = problem.points(dtype)
    exact = Exact(problem, points.to(geometry(dtype)), geometry(dtype))
    given_points = points.to(place.device).requires_grad_()
    maps = pk.heatmap(given_points, problem.size, problem.sigma, stride=problem.stride)
    assert maps.dtype == geometry(dtype) and maps.is_contiguous()
    within(maps, exact.value, exact.bound)
    g = problem.incoming(geometry(dtype))
    (grad,) = torch.autograd.grad(maps, given_points, g.to(place.device))
    assert grad.dtype == dtype and grad.shape == points.shape
    expected, bound = exact.gradient(g)
    if dtype != geometry(dtype):  # rounded once more on the way to the points
        info = torch.finfo(dtype)
        bound = bound * 2 + expected.abs() * info.eps + info.smallest_normal
        # Infinite where float16 ends.
        over = expected.abs() > info.max
        grad, expected = grad.cpu().where(~over, 0), expected.where(~over, 0)
    within(grad, expected, bound)
    with torch.no_grad():
        again = pk.heatmap(given_points, problem.size, problem.sigma, stride=problem.stride)
    assert torch.equal(again, maps)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", PROBLEMS)
def test_disc(place, name, dtype):
    """Equal to the definition, except where rounding decides."""
    problem = PROBLEMS[name]
    points = problem.points(dtype)
    exact = Exact(problem, points, dtype)
    radius = sum((z * problem.sigma) ** 2 for z in exact.z)
    off = sum(2 * e * (z * problem.sigma).abs() for z, e in zip(exact.z, exact.extent))
    certain = (radius - problem.sigma**2).abs() > 4 * exact.eps * (off + problem.sigma**2)
    expected = ((radius <= problem.sigma**2) & exact.known).double()
    maps = pk.heatmap(
        points.to(place.device), problem.size, problem.sigma, stride=problem.stride, kind="disc"
    )
    assert maps.dtype == dtype
    assert torch.equal(maps.cpu().double()[certain], expected[certain])
    assert ((maps == 0) | (maps == 1)).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", PROBLEMS)
def test_impulse(place, name, dtype):
    """The nearest node, by arithmetic in the points' own dtype: bit for bit."""
    problem = PROBLEMS[name]
    points = problem.points(dtype)
    q = (points / torch.tensor(problem.stride, dtype=dtype) + 0.5).floor()
    limit = torch.tensor(problem.size[::-1])
    inside = ((q >= 0) & (q < limit)).all(-1)
    expected = torch.zeros(*q.shape[:2], *problem.size, dtype=dtype)
    for n, j in inside.nonzero().tolist():
        expected[(n, j, *q[n, j].long().tolist()[::-1])] = 1
    maps = pk.heatmap(
        points.to(place.device), problem.size, 0, stride=problem.stride, kind="impulse"
    )
    assert torch.equal(maps.cpu(), expected)


E = [torch.exp(torch.tensor(-x)).item() for x in (0.0, 0.5, 1.0, 2.0, 2.5)]
LITERAL = [
    ("gaussian on a node", [1.0, 0.0], (2, 3), 1.0, {}, [[E[1], 1, E[1]], [E[2], E[1], E[2]]]),
    ("sigma 2", [0.0, 0.0], (1, 3), 2.0, {}, [[1, 0.8824969, E[1]]]),
    ("stride 2", [2.0, 0.0], (1, 3), 2.0, {"stride": 2}, [[E[1], 1, E[1]]]),
    ("strides are x, y", [0.0, 0.0], (2, 2), 1.0, {"stride": (2, 1)}, [[1, E[3]], [E[1], E[4]]]),
    ("a disc has its rim", [1.0, 1.0], (3, 3), 1.0, {"kind": "disc"},
     [[0, 1, 0], [1, 1, 1], [0, 1, 0]]),
    ("3 4 5", [3.0, 4.0], (1, 1), 5.0, {"kind": "disc"}, [[1]]),
    ("just under 5", [3.0, 4.0], (1, 1), 4.999, {"kind": "disc"}, [[0]]),
    ("radius 0", [1.0, 0.0], (1, 3), 0.0, {"kind": "disc"}, [[0, 1, 0]]),
    ("a disc in pixels", [4.0, 0.0], (1, 4), 4.0, {"kind": "disc", "stride": 4}, [[1, 1, 1, 0]]),
    ("impulse", [1.2, 0.9], (2, 3), 1.0, {"kind": "impulse"}, [[0, 0, 0], [0, 1, 0]]),
    ("half rounds up", [0.5, -0.5], (2, 3), 1.0, {"kind": "impulse"}, [[0, 1, 0], [0, 0, 0]]),
    ("outside", [2.5, 0.0], (1, 3), 1.0, {"kind": "impulse"}, [[0, 0, 0]]),
    ("outside on the left", [-0.6, 0.0], (1, 3), 1.0, {"kind": "impulse"}, [[0, 0, 0]]),
    ("impulse on strides", [7.0, 3.0], (2, 3), 9.0, {"kind": "impulse", "stride": (4, 8)},
     [[0, 0, 1], [0, 0, 0]]),
    ("NaN", [NAN, 0.0], (1, 2), 1.0, {}, [[0, 0]]),
    ("infinite", [0.0, INF], (1, 2), 1e9, {"kind": "disc"}, [[0, 0]]),
    ("far away", [1e30, -3e38], (1, 2), 1.0, {}, [[0, 0]]),
]  # fmt: skip


@pytest.mark.parametrize("row", LITERAL, ids=[row[0] for row in LITERAL])
def test_by_hand(place, row):
    _, point, size, sigma, options, expected = row
    points = torch.tensor([[point]], device=place.device)
    maps = pk.heatmap(points, size, sigma, **options)
    torch.testing.assert_close(maps[0, 0].cpu(), torch.tensor(expected).float(), rtol=1e-6, atol=0)


def test_by_hand_in_space(place):
    """(x, y, z) is (column, row, slice)."""
    points = torch.tensor([[[2.0, 1.0, 0.0]]], device=place.device)
    impulse = pk.heatmap(points, (2, 3, 4), 1.0, kind="impulse")
    assert impulse.nonzero().tolist() == [[0, 0, 0, 1, 2]]
    maps = pk.heatmap(points, (2, 3, 4), 1.0, stride=(1, 2, 3))[0, 0].cpu()
    squares = torch.tensor([-1.0, 1.0, 2 * 2 - 1])  # offsets in y: 2 i - 1
    expected = torch.exp(-0.5 * squares**2)
    torch.testing.assert_close(maps[0, :, 2], expected, rtol=1e-6, atol=0)
    ratio = torch.exp(torch.tensor(-4.5))
    torch.testing.assert_close(maps[1], maps[0] * ratio, rtol=1e-5, atol=0)
    disc = pk.heatmap(points, (2, 3, 4), 1.0, kind="disc")[0, 0]
    assert disc.sum() == 6 and disc[1, 1, 2] == 1  # itself, four around it, one behind


VALID = [
    torch.tensor([[True, False, True]]),
    torch.tensor([[1, 0, 2]], dtype=torch.uint8),
    torch.tensor([[3, -1, 1]]),
    torch.tensor([[0.5, NAN, 1.0]]),
    torch.tensor([[1.0, 0.0, 1.0]], dtype=torch.float16),
]


@pytest.mark.parametrize("valid", VALID, ids=lambda v: str(v.dtype))
@pytest.mark.parametrize("kind", ["gaussian", "disc", "impulse"])
def test_valid(place, valid, kind):
    points = torch.rand(1, 3, 2, device=place.device) * 5
    points.requires_grad_()
    maps = pk.heatmap(points, (5, 6), 2.0, kind=kind, valid=valid.to(place.device))
    plain = pk.heatmap(points, (5, 6), 2.0, kind=kind)
    assert maps[0, 1].abs().max() == 0 and plain[0, 1].abs().max() == 1 or kind == "gaussian"
    assert torch.equal(maps[0, ::2], plain[0, ::2])
    assert maps.requires_grad == (kind == "gaussian")
    if kind == "gaussian":
        g = torch.rand_like(maps)
        g[0, 1] = NAN
        (grad,) = torch.autograd.grad(maps, points, g)
        assert (grad[0, 1] == 0).all() and (grad[0, ::2] != 0).all()


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_point_that_is_not_finite_has_no_map_and_no_gradient(place, axis, value):
    points = torch.full((1, 2, 3), 1.0)
    points[0, 1, axis] = value
    points = points.to(place.device).requires_grad_()
    for kind in ("gaussian", "disc", "impulse"):
        maps = pk.heatmap(points, (3, 3, 3), 1.0, kind=kind)
        assert maps[0, 1].abs().max() == 0 and maps[0, 0].max() == 1
    maps = pk.heatmap(points, (3, 3, 3), 1.0)
    (grad,) = torch.autograd.grad((maps * torch.rand_like(maps)).sum(), points)
    assert (grad[0, 1] == 0).all() and (grad[0, 0] != 0).any()


def test_gradients_of_nan_where_the_map_is_0_change_nothing(place):
    points = torch.tensor([[[20.0, 3.0]]], device=place.device, requires_grad=True)
    maps = pk.heatmap(points, (8, 400), 2.0)
    g = torch.rand_like(maps)
    (clean,) = torch.autograd.grad(maps, points, g, retain_graph=True)
    g[..., 200:] = NAN
    (noisy,) = torch.autograd.grad(maps, points, g)
    assert torch.equal(clean, noisy) and clean.abs().min() > 0


@pytest.mark.parametrize("W", [256, 255])
def test_outputs_that_bypass_the_cache(place, W):
    """More than 16 MB, in rows that keep the alignment and in rows that do not."""
    points = torch.rand(4, 18, 2) * 256
    points[1, 3, 0] = NAN
    maps = pk.heatmap(points.to(place.device), (256, W), 6.0).cpu()
    x, y = (
        torch.exp(-0.5 * ((torch.arange(n) - points[..., a, None]) / 6) ** 2)
        for a, n in ((0, W), (1, 256))
    )
    expected = (y[..., None] * x[:, :, None]).nan_to_num(0)
    torch.testing.assert_close(maps, expected, rtol=0, atol=2e-5)
    assert maps[1, 3].abs().max() == 0
    discs = pk.heatmap(points.to(place.device), (256, W), 6.5, kind="disc").cpu()
    assert torch.equal(discs[..., :W], (expected >= torch.tensor(-0.5 * (6.5 / 6) ** 2).exp()))


def test_no_subnormal_number_is_ever_returned(device):
    """They would cost the next operation on the map some hundred cycles each."""
    points = torch.tensor([[[0.0, 0.0]]], device=device)
    maps = pk.heatmap(points, (200, 200), 6.0)
    assert (maps == 0).any()
    assert maps[maps > 0].min() >= torch.finfo(torch.float32).tiny


def test_strides_of_points_and_gradients(place):
    problem = PROBLEMS["space"]
    points, g = problem.points(torch.float32).to(place.device), problem.incoming(torch.float32)
    g = g.to(place.device)
    expected = pk.heatmap(points, problem.size, 2.5)
    grad = torch.ops.pose_kernels.heatmap_backward(g, points, 2.5, [1.0, 1.0, 1.0])
    odd = [
        points.transpose(0, 1).contiguous().transpose(0, 1),
        torch.stack([points] * 2, -1)[..., 0],
    ]
    for other in odd:
        assert not other.is_contiguous()
        assert torch.equal(pk.heatmap(other, problem.size, 2.5), expected)
        for strided in (g.transpose(2, 4).contiguous().transpose(2, 4), torch.cat([g, g])[2:]):
            again = torch.ops.pose_kernels.heatmap_backward(strided, other, 2.5, [1.0, 1.0, 1.0])
            assert torch.equal(again, grad)
    points.requires_grad_()
    (total,) = torch.autograd.grad(pk.heatmap(points, problem.size, 2.5).sum(), points)
    ones = torch.ones_like(g)
    alone = torch.ops.pose_kernels.heatmap_backward(ones, points.detach(), 2.5, [1.0, 1.0, 1.0])
    assert torch.equal(total, alone)


def test_the_output_is_nobody_s_view(place):
    points = torch.rand(1, 2, 2, device=place.device, requires_grad=True)
    maps = pk.heatmap(points, (3, 4), 1.0)
    doubled = maps.detach() * 2
    maps.mul_(2)
    assert torch.equal(maps, doubled)


def test_same_bits_whatever_the_number_of_threads(place):
    """The order of a gradient's sum is fixed; the control: another order gives other bits."""
    points = torch.rand(1, 3, 2) * 300
    g = torch.randn(1, 3, 400, 410)
    points, g = points.to(place.device), g.to(place.device)

    def run():
        x = points.clone().requires_grad_()
        maps = pk.heatmap(x, (400, 410), 70.0)
        return maps, *torch.autograd.grad(maps, x, g)

    before = torch.get_num_threads()
    try:
        runs = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            runs += [run(), run()]
    finally:
        torch.set_num_threads(before)
    if place.backend != "reference":
        for maps, grad in runs[1:]:
            assert torch.equal(maps, runs[0][0]) and torch.equal(grad, runs[0][1])
    terms = (g * runs[0][0].detach()).flatten(2)
    assert (terms.sum(2) != terms.flip(2).cumsum(2)[..., -1]).any()


# ---- gradients

SMOOTH = [
    ((3, 4), 1.3, 1.0),
    ((4, 3), 2.0, (1.5, 0.7)),
    ((2, 3, 3), 1.2, 1.0),
    ((3, 2, 2), 2.0, (0.8, 1.0, 2.0)),
]


@pytest.mark.parametrize(("size", "sigma", "stride"), SMOOTH)
def test_gradcheck(place, size, sigma, stride):
    """Reverse, forward and batched, and the second order, against finite differences."""
    points = torch.rand(2, 2, len(size), dtype=torch.float64) * 3
    points = points.to(place.device).requires_grad_()

    def run(points):
        return pk.heatmap(points, size, sigma, stride=stride)

    options = dict(check_batched_grad=True)
    assert torch.autograd.gradcheck(
        run, points, check_forward_ad=True, check_batched_forward_grad=True, **options
    )
    assert torch.autograd.gradgradcheck(run, points, check_fwd_over_rev=True, **options)


def test_third_order_is_the_reference_s(place):
    points = torch.rand(1, 2, 2, dtype=torch.float64, device=place.device) * 3

    def third(op):
        x = points.clone().requires_grad_()
        y = op(x, (3, 4), 1.4).pow(3).sum()
        for _ in range(3):
            (y,) = torch.autograd.grad(y.pow(2).sum(), x, create_graph=True)
        return y.detach()

    torch.testing.assert_close(third(pk.heatmap), third(pk.reference.heatmap), rtol=1e-9, atol=1e-9)


def test_discs_and_impulses_have_no_gradient(place):
    points = torch.rand(1, 2, 2, device=place.device, requires_grad=True)
    for kind in ("disc", "impulse"):
        assert not pk.heatmap(points, (3, 4), 1.0, kind=kind).requires_grad


def test_fitting_a_point_finds_it(place):
    """Gradient descent on the maps recovers the joints they were drawn from."""
    target = torch.tensor([[[6.3, 9.1], [10.7, 3.2]]], dtype=torch.float64, device=place.device)
    goal = pk.heatmap(target, (14, 16), 3.0)
    points = (target + 1.5).requires_grad_()
    for _ in range(60):
        loss = (pk.heatmap(points, (14, 16), 3.0) - goal).pow(2).sum()
        (grad,) = torch.autograd.grad(loss, points)
        points = (points.detach() - 0.4 * grad).requires_grad_()
    torch.testing.assert_close(points.detach(), target, rtol=0, atol=1e-6)


# ---- the reference


def test_signature_is_the_reference_s():
    assert inspect.signature(pk.heatmap) == inspect.signature(pk.reference.heatmap)


@pytest.mark.parametrize("kind", [0, 1, 2])
def test_the_reference_takes_the_same_arguments(kind):
    points = PROBLEMS["strides"].points(torch.float64)
    valid = torch.rand(2, 3) > 0.3
    names = ("gaussian", "disc", "impulse")
    options = dict(stride=(4, 0.7), kind=names[kind], valid=valid)
    expected = pk.reference.heatmap(points, (9, 31), 6.0, **options)
    torch.testing.assert_close(
        pk.heatmap(points, (9, 31), 6.0, **options), expected, rtol=0, atol=1e-13
    )
    cleaned = points.where(valid[..., None], NAN)
    assert torch.equal(reference_maps(cleaned, (9, 31), 6.0, (4, 0.7), kind), expected)


@settings(
    max_examples=40,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(
    st.builds(
        lambda N, J, size, sigma, strides, seed: Problem(
            N, J, tuple(size), sigma, tuple(strides[: len(size)]), seed
        ),
        N=st.integers(0, 3),
        J=st.integers(0, 4),
        size=st.lists(st.integers(1, 40), min_size=2, max_size=3),
        sigma=st.floats(0.05, 100),
        strides=st.lists(st.sampled_from([0.5, 1.0, 3.0, 7.3]), min_size=3, max_size=3),
        seed=st.integers(0, 1000),
    ),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_sweep(place, problem, dtype):
    check_gaussian(place, problem, dtype)
