# SPDX-License-Identifier: Apache-2.0
"""push_pull: the contract, answers worked by hand, and what holds for it alone."""

from __future__ import annotations

import functools

import pytest
import torch
from cases import DTYPE_IDS, DTYPES, NAN, Case, Inputs, features, geometry, move
from contract import Contract
from contract_modes import Modes
from hypothesis import strategies as st
from surface import fill_bounds
from torch import Tensor

import pose_kernels as pk


def fill_inputs(
    shape: tuple[int, ...], known: float, dtype: torch.dtype, *, seed: int = 4, **options
) -> Inputs:
    """A share ``known`` of the texels is known; the values of the others are not numbers."""
    random = torch.Generator().manual_seed(seed)
    lead, sides = shape[:-3], shape[-2:]
    weight = torch.rand((*lead, *sides), generator=random) + 0.01
    weight = weight.where(torch.rand(weight.shape, generator=random) < known, 0)
    return {"atlas": features(shape, dtype), "weight": weight.to(geometry(dtype)), **options}


def case(name: str, shape: tuple[int, ...], known: float = 0.2, **options) -> Case:
    return Case(name, functools.partial(fill_inputs, shape, known, **options))


CASES = [
    case("small", (2, 3, 2, 8, 8)),
    case("odd", (2, 3, 7, 7)),
    case("no-lead", (3, 5, 6)),
    case("two-lead", (2, 2, 2, 2, 9, 4), 0.5),
    case("wide", (2, 2, 3, 19), radius=2),
    case("tall", (2, 2, 33, 2), 0.05, radius=5),
    case("channels", (1, 19, 6, 6)),
    case("radius-0", (2, 2, 6, 6), radius=0),
    case("radius-1", (2, 2, 17, 17), 0.02, radius=1),
    case("radius-all", (2, 2, 6, 6), 0.02, radius=10**12),
    case("threshold", (2, 2, 6, 6), 1.0, min_weight=0.5),
    case("full", (2, 2, 5, 5), 1.0),
    case("empty", (2, 2, 5, 5), 0.0, radius=3),
    case("one-texel", (2, 2, 1, 1), 0.5),
    case("one-row", (2, 2, 1, 13), 0.2),
    case("sparse", (1, 2, 40, 37), 0.01),
    case("no-tiles", (0, 3, 4, 4)),
    case("no-channels", (2, 0, 4, 4)),
    case("no-texels", (2, 3, 0, 4), radius=1),
]


class TestPushPull(Contract, Modes):
    op = staticmethod(pk.push_pull)
    reference = staticmethod(pk.reference.push_pull)
    bounds = staticmethod(fill_bounds)
    CASES = CASES
    tame = case("tame", (2, 2, 3, 4), 0.3)
    collide = case("collide", (4, 3, 64, 64), 0.05)
    values, differentiable, outputs = "atlas", ("atlas",), ("filled",)
    realistic = [case("realistic", (2, 24, 3, 128, 128), 0.03)]
    sweep = st.builds(
        fill_inputs,
        shape=st.tuples(*[st.integers(0, high) for high in (3, 2, 5, 20, 20)]),
        known=st.sampled_from([0.0, 0.02, 0.3, 1.0]),
        dtype=st.sampled_from(DTYPES),
        radius=st.sampled_from([None, 0, 1, 2, 5, 100]),
        min_weight=st.sampled_from([0, 1e-3, 0.4]),
        seed=st.integers(0, 99),
    )

    def dispatched(self, inputs: Inputs):
        options = (inputs.get("radius", -1), inputs.get("min_weight", 1e-3), False)
        return torch.ops.pose_kernels.push_pull.default, (*list(inputs.values())[:2], *options)

    def grown(self, by: int) -> Inputs:
        shape = (3 + by, 4 + by, 5 + by, 6 + by, 7 + by)
        return fill_inputs(shape, 0.2, torch.float32, radius=2 + by)


def one_tile(place, values: list[list[float]], known: list[list[float]], **options) -> list:
    atlas = torch.tensor([values], device=place.device)
    weight = torch.tensor(known, device=place.device)
    return pk.push_pull(atlas, weight, **options)[0].tolist()


def test_nothing_known_is_zero(place):
    assert one_tile(place, [[1.0, 2.0], [3.0, 4.0]], [[0.0, 0.0], [0.0, 0.001]]) == [[0, 0], [0, 0]]


def test_one_known_texel_fills_its_tile(place):
    filled = one_tile(place, [[NAN, NAN, NAN], [NAN, 6.0, NAN]], [[0.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    assert filled == [[6, 6, 6], [6, 6, 6]]


def test_radius_is_a_square(place):
    filled = one_tile(
        place,
        [[0.0] * 5, [0.0, 6.0, 0.0, 0.0, 0.0], [0.0] * 5, [0.0] * 5],
        [[0.0] * 5, [0.0, 1.0, 0.0, 0.0, 0.0], [0.0] * 5, [0.0] * 5],
        radius=1,
    )
    assert filled == [[6, 6, 6, 0, 0]] * 3 + [[0] * 5]


def test_four_texels_by_hand(place):
    """4 . . 8: parents 4 and 8; a child takes 3/4 of its own parent and 1/4 of the other."""
    assert one_tile(place, [[4.0, 0.0, 0.0, 8.0]], [[1.0, 0.0, 0.0, 1.0]]) == [[4, 5, 7, 8]]


def test_odd_side_by_hand(place):
    """0 . . . 16: parents 0 (known), ? , 16 (known, one child); grandparents 0, 16.

    The middle parent is 3/4 of its own parent (0) + 1/4 of the right one (16) = 4.
    Child 1 = 3/4 * 0 + 1/4 * 4, child 2 = 3/4 * 4 + 1/4 * 0, child 3 = 3/4 * 4 + 1/4 * 16.
    """
    filled = one_tile(place, [[0.0, NAN, NAN, NAN, 16.0]], [[1.0, 0.0, 0.0, 0.0, 1.0]])
    assert filled == [[0, 1, 3, 7, 16]]


def textbook(atlas: Tensor, weight: Tensor, min_weight: float = 1e-3) -> Tensor:
    """Pull with 2x2 sums and push with F.interpolate, as the papers write it: (M,C,H,W)."""
    F = torch.nn.functional
    W = (weight > min_weight).to(atlas.dtype)[:, None]
    pyramid = [(atlas.where(W > 0, 0), W)]
    while max(pyramid[-1][1].shape[-2:]) > 1:
        value, mask = (
            4 * F.avg_pool2d(F.pad(x, (0, x.shape[-1] % 2, 0, x.shape[-2] % 2)), 2)
            for x in pyramid[-1]
        )
        pyramid.append((value / mask.clamp(min=1), mask.clamp(max=1)))
    filled = pyramid[-1][0]
    for value, mask in reversed(pyramid[:-1]):
        h, w = value.shape[-2:]
        up = F.interpolate(filled, scale_factor=2, mode="bilinear", align_corners=False)
        filled = value + (1 - mask) * up[..., :h, :w]
    return filled


@pytest.mark.parametrize("sides", [(8, 8), (7, 7), (13, 9), (2, 31), (40, 40)])
@pytest.mark.parametrize("known", [0.01, 0.3])
def test_the_textbook_agrees(place, sides, known):
    inputs = move(fill_inputs((3, 2, *sides), known, torch.float64), place.device)
    torch.testing.assert_close(pk.push_pull(**inputs), textbook(**inputs), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("dtype", DTYPES, ids=DTYPE_IDS)
def test_known_texels_come_back_bit_for_bit(place, dtype):
    inputs = move(fill_inputs((2, 3, 11, 14), 0.4, dtype), place.device)
    known = (inputs["weight"] > 1e-3)[:, None].expand_as(inputs["atlas"])
    filled = pk.push_pull(**inputs)
    assert torch.equal(filled[known], inputs["atlas"][known])
    assert (filled[~known] != 0).all()


def test_a_constant_stays_constant(place):
    weight = move(fill_inputs((2, 1, 33, 20), 0.02, torch.float32), place.device)["weight"]
    atlas = torch.full((2, 4, 33, 20), 0.7, device=place.device)
    torch.testing.assert_close(pk.push_pull(atlas, weight), atlas, rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_values_of_unknown_texels_are_never_read(place, dtype):
    inputs = move(fill_inputs((2, 3, 11, 14), 0.3, dtype, radius=2), place.device)
    unknown = (inputs["weight"] <= 1e-3)[:, None]
    dirty = {**inputs, "atlas": inputs["atlas"].masked_fill(unknown, NAN)}
    contract = TestPushPull()
    incoming = contract.incoming(inputs, contract.run(inputs))
    clean, noisy = (contract.gradients(contract.run, i, incoming) for i in (inputs, dirty))
    assert torch.equal(clean[0][0], noisy[0][0])
    assert torch.equal(clean[1]["atlas"], noisy[1]["atlas"])
    assert clean[1]["atlas"].masked_fill(~unknown, 0).abs().max() == 0


def test_gradients_that_arrive_beyond_the_radius_are_never_read(place):
    inputs = move(fill_inputs((2, 3, 15, 14), 0.02, torch.float32, radius=1), place.device)
    filled = pk.push_pull(**inputs)
    beyond = (filled == 0).all(1, keepdim=True)
    assert beyond.any()
    atlas = inputs["atlas"].requires_grad_()
    g = torch.ones_like(filled)
    clean = torch.autograd.grad(pk.push_pull(**inputs), atlas, g.masked_fill(beyond, 0))
    noisy = torch.autograd.grad(pk.push_pull(**inputs), atlas, g.masked_fill(beyond, NAN))
    assert torch.equal(clean[0], noisy[0])


@pytest.mark.parametrize("name", ["small", "odd", "tall", "sparse"])
def test_the_gradient_is_the_adjoint(place, name):
    """<fill(x), y> = <x, adjoint(y)> to 1e-12 in float64."""
    inputs = move(next(c for c in CASES if c.id == name).make(torch.float64), place.device)
    atlas = inputs["atlas"].requires_grad_()
    filled = pk.push_pull(**inputs)
    y = features(tuple(filled.shape), torch.float64, 9).to(place.device)
    (adjoint,) = torch.autograd.grad(filled, atlas, y)
    left, right = (filled * y).sum(), (atlas * adjoint).sum()
    scale = (filled.abs() * y.abs()).sum()
    assert scale > 1
    assert abs(left - right) <= 1e-12 * scale


def test_tiles_never_mix(place):
    inputs = move(fill_inputs((4, 2, 9, 9), 0.2, torch.float32), place.device)
    filled = pk.push_pull(**inputs)
    changed = {k: v.clone() for k, v in inputs.items()}
    changed["atlas"][2] += 1
    changed["weight"][2] = 1
    again = pk.push_pull(**changed)
    assert torch.equal(filled[[0, 1, 3]], again[[0, 1, 3]])
    assert not torch.equal(filled[2], again[2])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_the_threshold_is_compared_in_float32_whatever_the_dtype_of_weight(place, dtype):
    """A float32 atlas: weight counts as known above float32(1e-3), in the op and the reference."""
    around = torch.tensor([9.99e-4, 1e-3, 1.0005e-3, 1.01e-3, 1e-3 * (1 + 1e-9)], dtype=dtype)
    atlas = torch.ones(5, 1, 1, 1, device=place.device)
    weight = around.reshape(5, 1, 1).to(place.device)
    expected = (around.float() > 1e-3).float().tolist()
    assert pk.push_pull(atlas, weight).flatten().tolist() == expected
    assert pk.reference.push_pull(atlas, weight).flatten().tolist() == expected


def test_a_weight_that_requires_grad_gets_none(place):
    inputs = move(TestPushPull.tame.make(torch.float32), place.device)
    weight = inputs["weight"].requires_grad_()
    atlas = inputs["atlas"].requires_grad_()
    pk.push_pull(atlas, weight).sum().backward()
    assert atlas.grad is not None
    assert weight.grad is None
