# SPDX-License-Identifier: Apache-2.0
"""uv_gather: the contract, answers worked by hand, and what holds for it alone."""

from __future__ import annotations

import functools

import pytest
import torch
from cases import DTYPES, INF, NAN, Case, Inputs, features, geometry, move
from contract import Contract
from contract_modes import Modes
from hypothesis import strategies as st
from surface import gather_bounds, parts, tame_uv, wild_uv

import pose_kernels as pk
from pose_kernels.testing import synthetic_iuv


def gather_inputs(
    shape: tuple[int, int, int, int],
    P: int,
    S: int,
    part_dtype: torch.dtype,
    dtype: torch.dtype,
    *,
    tame: bool = False,
    seed: int = 0,
) -> Inputs:
    N, C, H, W = shape
    g = geometry(dtype)
    return {
        "atlas": features((N, P, C, S, S), dtype, seed),
        "part": parts(N, H, W, P, part_dtype, seed + 1),
        "uv": tame_uv(N, H, W, S, g, seed + 2) if tame else wild_uv(N, H, W, g, seed + 2),
    }


def case(name: str, shape, P: int, S: int, part_dtype=torch.int64, **options) -> Case:
    return Case(name, functools.partial(gather_inputs, shape, P, S, part_dtype, **options))


def person(dtype: torch.dtype) -> Inputs:
    part, uv = synthetic_iuv(2, 45, 39, dtype=geometry(dtype))
    return {"atlas": features((2, 24, 3, 19, 19), dtype), "part": part, "uv": uv}


def realistic(dtype: torch.dtype) -> Inputs:
    part, uv = synthetic_iuv(2, 256, 256, dtype=geometry(dtype))
    return {"atlas": features((2, 24, 3, 128, 128), dtype), "part": part, "uv": uv}


def background(dtype: torch.dtype) -> Inputs:
    inputs = gather_inputs((2, 3, 4, 5), 3, 4, torch.uint8, dtype)
    return {**inputs, "part": torch.zeros_like(inputs["part"])}


CASES = [
    case("small", (2, 3, 5, 7), 3, 6, torch.uint8),
    case("crowded", (1, 4, 16, 17), 2, 3, torch.int32),
    case("channels", (1, 19, 6, 5), 2, 4, torch.int8),
    case("parts", (1, 2, 9, 9), 30, 2, torch.int16),
    case("one-pixel", (1, 1, 1, 1), 1, 1),
    case("one-texel", (2, 2, 3, 3), 2, 1, torch.uint16),
    case("one-column", (3, 5, 40, 1), 1, 5, torch.uint32),
    case("no-images", (0, 3, 4, 5), 3, 4),
    case("no-channels", (2, 0, 4, 5), 3, 4),
    case("no-pixels", (2, 3, 4, 0), 3, 4),
    Case("background", background),
    Case("person", person),
]


class TestUvGather(Contract, Modes):
    op = staticmethod(pk.uv_gather)
    reference = staticmethod(pk.reference.uv_gather)
    bounds = staticmethod(gather_bounds)
    CASES = CASES
    tame = case("tame", (2, 2, 3, 4), 2, 3, tame=True)
    collide = case("collide", (2, 3, 64, 64), 2, 5)
    values, differentiable, outputs = "atlas", ("atlas", "uv"), ("image",)
    realistic = [Case("realistic", realistic)]
    sweep = st.builds(
        gather_inputs,
        shape=st.tuples(*[st.integers(0, high) for high in (3, 6, 9, 9)]),
        P=st.integers(1, 6),
        S=st.integers(1, 9),
        part_dtype=st.sampled_from([torch.uint8, torch.int8, torch.int16, torch.int64]),
        dtype=st.sampled_from(DTYPES),
        tame=st.booleans(),
        seed=st.integers(0, 99),
    )

    def dispatched(self, inputs: Inputs):
        return torch.ops.pose_kernels.uv_gather.default, tuple(inputs.values())

    def grown(self, by: int) -> Inputs:
        shape = (3 + by, 4 + by, 5 + by, 6 + by)
        return gather_inputs(shape, 7 + by, 8 + by, torch.int64, torch.float32)


# One 3 x 3 tile of part 2; every other tile is 1000, so a sample that leaks shows.
TILE = [[0.0, 1.0, 2.0], [10.0, 11.0, 12.0], [20.0, 21.0, 22.0]]
LITERAL = [
    ("v runs up: (0, 0) is bottom left", 2, 0.0, 0.0, 20.0),
    ("(1, 1) is top right", 2, 1.0, 1.0, 2.0),
    ("center", 2, 0.5, 0.5, 11.0),
    ("between four texels", 2, 0.25, 0.75, 5.5),
    ("a quarter to the right", 2, 0.125, 1.0, 0.25),
    ("clamped, never the next tile", 2, 1.5, -0.5, 22.0),
    ("far outside", 2, 1e30, 0.5, 12.0),
    ("background", 0, 0.5, 0.5, 0.0),
    ("negative part", -1, 0.5, 0.5, 0.0),
    ("part out of range", 4, 0.5, 0.5, 0.0),
    ("part far out of range", 2**40 + 2, 0.5, 0.5, 0.0),
    ("NaN", 2, NAN, 0.5, 0.0),
    ("infinite", 2, 0.5, INF, 0.0),
]


@pytest.mark.parametrize("row", LITERAL, ids=[row[0] for row in LITERAL])
def test_what_one_pixel_reads(place, row):
    _, part, u, v, value = row
    atlas = torch.full((1, 3, 2, 3, 3), 1000.0)
    atlas[0, 1] = torch.stack([torch.tensor(TILE), -2 * torch.tensor(TILE)])
    atlas = atlas.to(place.device)
    part = torch.tensor([[[part]]], device=place.device)
    uv = torch.tensor([[[[u]], [[v]]]], device=place.device)
    assert pk.uv_gather(atlas, part, uv).flatten().tolist() == [value, -2 * value]


def test_part_255_is_background_where_there_are_fewer_tiles(place):
    atlas = torch.ones(1, 24, 1, 2, 2, device=place.device)
    part = torch.tensor([[[24, 25, 255, 0]]], dtype=torch.uint8, device=place.device)
    uv = torch.full((1, 2, 1, 4), 0.5, device=place.device)
    assert pk.uv_gather(atlas, part, uv).flatten().tolist() == [1, 0, 0, 0]


def test_all_255_parts_of_a_byte_can_be_used(place):
    atlas = torch.arange(255.0, device=place.device).reshape(1, 255, 1, 1, 1)
    part = torch.arange(256, device=place.device).to(torch.uint8)[None, None]
    uv = torch.zeros(1, 2, 1, 256, device=place.device)
    assert pk.uv_gather(atlas, part, uv).flatten().tolist() == [0, *range(255)]


@pytest.mark.parametrize(("S", "H", "W"), [(2, 3, 4), (5, 7, 9)])
def test_grid_sample_agrees(place, S, H, W):
    """One tile is torch.nn.functional.grid_sample(align_corners=True, padding_mode="border")."""
    atlas = features((2, 1, 3, S, S), torch.float64).to(place.device)
    uv = (torch.rand(2, 2, H, W, dtype=torch.float64) * 1.4 - 0.2).to(place.device)
    part = torch.ones(2, H, W, dtype=torch.int64, device=place.device)
    grid = torch.stack([2 * uv[:, 0] - 1, 1 - 2 * uv[:, 1]], -1)
    expected = torch.nn.functional.grid_sample(
        atlas[:, 0], grid, align_corners=True, padding_mode="border"
    )
    torch.testing.assert_close(pk.uv_gather(atlas, part, uv), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("ends", [(0.0, 1.0), (-0.1, 1.1), (-INF, NAN)])
def test_no_gradient_to_uv_where_an_axis_is_clamped(place, ends):
    atlas = features((1, 1, 2, 4, 4), torch.float64).to(place.device)
    part = torch.ones(1, 2, 4, dtype=torch.int64, device=place.device)
    uv = tame_uv(1, 2, 4, 4, torch.float64).to(place.device)
    uv[0, 0, 0, :2] = torch.tensor(ends, dtype=torch.float64)
    uv[0, 1, 1, :2] = torch.tensor(ends, dtype=torch.float64)
    uv.requires_grad_()
    (grad,) = torch.autograd.grad(pk.uv_gather(atlas, part, uv).pow(2).sum(), uv)
    assert (grad[0, 0, 0, :2] == 0).all() and (grad[0, 1, 1, :2] == 0).all()
    alive = all(map(torch.isfinite, map(torch.tensor, ends)))
    assert ((grad[0, 1, 0, :2] != 0) == alive).all() and ((grad[0, 0, 1, :2] != 0) == alive).all()
    assert (grad[0, :, :, 2:] != 0).all()


@pytest.mark.parametrize("bad", [NAN, INF])
def test_texels_that_no_pixel_reads_never_show(place, bad):
    """NaN in other tiles, and an incoming gradient of NaN in the background, change nothing."""
    inputs = move(gather_inputs((2, 3, 8, 9), 3, 6, torch.int64, torch.float32), place.device)
    part, uv = inputs["part"], inputs["uv"]
    part = inputs["part"] = part.where(part != 2, 1)
    outside = (part < 1) | (part > 3) | ~uv.isfinite().all(1)
    contract = TestUvGather()
    (g,) = contract.incoming(inputs, contract.run(inputs))
    g = g.to(place.device)
    atlas = inputs["atlas"].clone()
    atlas[:, 1] = bad
    clean = contract.gradients(contract.run, inputs, [g])
    noisy = contract.gradients(
        contract.run, {**inputs, "atlas": atlas}, [g.masked_fill(outside[:, None], bad)]
    )
    for a, b in zip([*clean[0], *clean[1].values()], [*noisy[0], *noisy[1].values()]):
        assert torch.equal(a, b)
    assert clean[0][0][outside[:, None].expand_as(g)].abs().max() == 0
    assert clean[1]["uv"][outside[:, None].expand_as(uv)].abs().max() == 0


def test_painting_a_splat_back_returns_the_photo(place):
    """One pixel per texel: gather(splat(x)) = x, where every pixel has a texel of its own."""
    S = 6
    image = features((1, 3, S, S), torch.float32).to(place.device)
    part = torch.full((1, S, S), 5, dtype=torch.uint8, device=place.device)
    line = torch.arange(S, dtype=torch.float64) / (S - 1)
    uv = torch.stack([line.expand(S, S), (1 - line)[:, None].expand(S, S)])[None]
    uv = uv.float().to(place.device)
    atlas, weight = pk.uv_splat(image, part, uv, size=S)
    torch.testing.assert_close(atlas[:, 4], image, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(weight[:, 4], torch.ones_like(weight[:, 4]), rtol=0, atol=1e-5)
    torch.testing.assert_close(pk.uv_gather(atlas, part, uv), image, rtol=1e-4, atol=1e-5)
