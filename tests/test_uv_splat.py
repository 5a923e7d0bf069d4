# SPDX-License-Identifier: Apache-2.0
"""uv_splat: the contract, answers worked by hand, and what holds for it alone."""

from __future__ import annotations

import functools

import pytest
import torch
from cases import DTYPES, INF, NAN, Case, Inputs, channels_last, features, geometry, move
from contract import Contract
from contract_modes import Modes
from hypothesis import strategies as st
from surface import Surface, parts, splat_bounds, tame_uv, wild_uv
from torch import Tensor

import pose_kernels as pk
from pose_kernels.testing import synthetic_iuv


def splat_inputs(
    shape: tuple[int, int, int, int],
    P: int,
    S: int,
    part_dtype: torch.dtype,
    dtype: torch.dtype,
    *,
    tame: bool = False,
    seed: int = 0,
    **options,
) -> Inputs:
    N, C, H, W = shape
    g = geometry(dtype)
    return {
        "image": features(shape, dtype, seed),
        "part": parts(N, H, W, P, part_dtype, seed + 1),
        "uv": tame_uv(N, H, W, S, g, seed + 2) if tame else wild_uv(N, H, W, g, seed + 2),
        "num_parts": P,
        "size": S,
        **options,
    }


def case(name: str, shape, P: int, S: int, part_dtype=torch.int64, **options) -> Case:
    make = functools.partial(splat_inputs, shape, P, S, part_dtype, **options)
    return Case(name, make)


def person(dtype: torch.dtype) -> Inputs:
    part, uv = synthetic_iuv(2, 45, 39, dtype=geometry(dtype))
    return {
        "image": features((2, 3, 45, 39), dtype),
        "part": part,
        "uv": uv,
        "num_parts": 24,
        "size": 19,
    }


def realistic(dtype: torch.dtype) -> Inputs:
    part, uv = synthetic_iuv(2, 256, 256, dtype=geometry(dtype))
    return {
        "image": features((2, 3, 256, 256), dtype),
        "part": part,
        "uv": uv,
        "num_parts": 24,
        "size": 256,
    }


def background(dtype: torch.dtype) -> Inputs:
    inputs = splat_inputs((2, 3, 4, 5), 3, 4, torch.uint8, dtype)
    return {**inputs, "part": torch.zeros_like(inputs["part"])}


u8, i32, i64 = torch.uint8, torch.int32, torch.int64
CASES = [
    case("small", (2, 3, 5, 7), 3, 6, u8),
    case("sums", (2, 3, 5, 7), 3, 6, i32, normalize=False),
    case("crowded", (1, 4, 16, 17), 2, 3, i64, min_weight=0.05),
    case("channels", (1, 19, 6, 5), 2, 4, torch.int8),
    case("parts", (1, 2, 9, 9), 30, 2, torch.int16, normalize=False),
    case("one-pixel", (1, 1, 1, 1), 1, 1, i64),
    case("one-texel", (2, 2, 3, 3), 2, 1, torch.uint16),
    case("one-row", (3, 5, 1, 40), 1, 5, torch.uint32, min_weight=1e-9),
    case("no-images", (0, 3, 4, 5), 3, 4),
    case("no-channels", (2, 0, 4, 5), 3, 4),
    case("no-pixels", (2, 3, 0, 5), 3, 4),
    Case("background", background),
    Case("person", person),
]


class TestUvSplat(Contract, Modes):
    op = staticmethod(pk.uv_splat)
    reference = staticmethod(pk.reference.uv_splat)
    bounds = staticmethod(splat_bounds)
    CASES = CASES
    tame = case("tame", (2, 2, 3, 4), 2, 3, tame=True, min_weight=0.05)
    collide = case("collide", (2, 3, 64, 64), 2, 5)
    values, differentiable, outputs = "image", ("image", "uv"), ("atlas", "weight")
    realistic = [Case("realistic", realistic)]
    sweep = st.builds(
        splat_inputs,
        shape=st.tuples(*[st.integers(0, high) for high in (3, 6, 9, 9)]),
        P=st.integers(1, 6),
        S=st.integers(1, 9),
        part_dtype=st.sampled_from([u8, torch.int8, torch.int16, i32, i64, torch.uint64]),
        dtype=st.sampled_from(DTYPES),
        tame=st.booleans(),
        normalize=st.booleans(),
        min_weight=st.sampled_from([1e-3, 0.01, 0.3]),
        seed=st.integers(0, 99),
    )

    def incoming(self, inputs: Inputs, outputs: list[Tensor]) -> list[Tensor]:
        """No gradient where rounding decides whether a texel is visible."""
        g_atlas, g_weight = super().incoming(inputs, outputs)
        s = Surface(*(inputs[k] for k in ("image", "part", "uv", "num_parts", "size")))
        unsure = s.ambiguous(inputs.get("min_weight", 1e-3))
        return [g_atlas.masked_fill(unsure[:, :, None], 0), g_weight]

    def dispatched(self, inputs: Inputs):
        i = {"normalize": True, "min_weight": 1e-3, **inputs}
        names = ("image", "part", "uv", "num_parts", "size", "normalize", "min_weight")
        return torch.ops.pose_kernels.uv_splat.default, (*(i[name] for name in names), True)

    def grown(self, by: int) -> Inputs:
        shape = (3 + by, 4 + by, 5 + by, 6 + by)
        return splat_inputs(shape, 7 + by, 8 + by, i64, torch.float32)


LITERAL = [
    # name, u, v, S: weights of a tile that one pixel of part 1 lands on, row by row
    ("bottom left", 0.0, 0.0, 2, [[0, 0], [1, 0]]),
    ("top right", 1.0, 1.0, 2, [[0, 1], [0, 0]]),
    ("middle", 0.5, 0.5, 2, [[0.25, 0.25], [0.25, 0.25]]),
    ("center texel", 0.5, 0.5, 3, [[0, 0, 0], [0, 1, 0], [0, 0, 0]]),
    ("quarter along, half up", 0.25, 0.5, 3, [[0, 0, 0], [0.5, 0.5, 0], [0, 0, 0]]),
    ("up is row 0", 0.0, 0.75, 3, [[0.5, 0, 0], [0.5, 0, 0], [0, 0, 0]]),
    ("clamped", 7.0, -3.0, 2, [[0, 0], [0, 1]]),
    ("one texel", 0.3, 0.9, 1, [[1]]),
    ("not a number", NAN, 0.5, 2, [[0, 0], [0, 0]]),
    ("infinite", 0.5, -INF, 2, [[0, 0], [0, 0]]),
]


@pytest.mark.parametrize("row", LITERAL, ids=[row[0] for row in LITERAL])
def test_where_one_pixel_lands(place, row):
    _, u, v, size, tile = row
    image = torch.tensor([[[[3.0]], [[-5.0]]]], device=place.device)
    part = torch.tensor([[[2]]], device=place.device)
    uv = torch.tensor([[[[u]], [[v]]]], device=place.device)
    atlas, weight = pk.uv_splat(image, part, uv, num_parts=3, size=size, normalize=False)
    tile = torch.tensor(tile, dtype=torch.float32)
    assert torch.equal(weight[0, 1].cpu(), tile)
    assert torch.equal(atlas[0, 1].cpu(), torch.stack([3 * tile, -5 * tile]))
    assert weight[0, 0].abs().max() == weight[0, 2].abs().max() == atlas[0, [0, 2]].abs().max() == 0
    normalized, weight_too = pk.uv_splat(image, part, uv, num_parts=3, size=size)
    assert torch.equal(weight, weight_too)
    seen = (tile > 1e-3).float()
    assert torch.equal(normalized[0, 1].cpu(), torch.stack([3 * seen, -5 * seen]))


def test_pixels_that_share_a_texel_are_averaged(place):
    """Two pixels on one texel, a third halfway: D = 2 + 1/2, A = 10 + 20 + 40/2, A/D = 20."""
    image = torch.tensor([[[[10.0, 20.0, 40.0]]]], device=place.device)
    part = torch.ones(1, 1, 3, dtype=torch.uint8, device=place.device)
    uv = torch.tensor([[[[0.0, 0.0, 0.25]], [[1.0, 1.0, 1.0]]]], device=place.device)
    atlas, weight = pk.uv_splat(image, part, uv, num_parts=1, size=3)
    assert weight[0, 0, 0].tolist() == [2.5, 0.5, 0]
    assert atlas[0, 0, 0, 0].tolist() == [20, 40, 0]


@pytest.mark.parametrize("min_weight", [0.2499, 0.25, 0.2501])
def test_a_texel_at_the_threshold_is_invisible_in_both_directions(place, min_weight):
    image = torch.full((1, 1, 1, 1), 8.0, device=place.device, requires_grad=True)
    uv = torch.full((1, 2, 1, 1), 0.5, device=place.device, requires_grad=True)
    part = torch.ones(1, 1, 1, dtype=torch.int64, device=place.device)
    atlas, weight = pk.uv_splat(image, part, uv, num_parts=1, size=2, min_weight=min_weight)
    visible = 0.25 > min_weight
    assert atlas.flatten().tolist() == [8.0 * visible] * 4
    assert weight.flatten().tolist() == [0.25] * 4
    grad, grad_uv = torch.autograd.grad(atlas.sum(), (image, uv))
    assert grad.item() == 4 * visible
    assert grad_uv.abs().max() == 0  # all four texels have the pixel's color


@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("value", [NAN, INF])
def test_what_lands_on_an_invisible_texel_never_shows(place, value, last):
    """Color 0, not 0 times NaN, beside texels that another pixel makes visible."""
    image = torch.tensor([3.0, value]).view(1, 1, 1, 2).expand(1, 5, 1, 2).to(place.device)
    image = channels_last(image) if last else image.contiguous()
    part = torch.ones(1, 1, 2, dtype=torch.int64, device=place.device)
    # Texels (0, 0) and (0, 1) have a pixel between them, the four at the other end a quarter each.
    uv = torch.tensor([[[[0.125, 0.875]], [[1.0, 0.125]]]], device=place.device)
    atlas, weight = pk.uv_splat(image, part, uv, num_parts=1, size=5, min_weight=0.3)
    assert (weight > 0).sum() == 6 and (weight > 0.3).sum() == 2
    expected = torch.zeros(5, 5, 5, device=place.device)
    expected[:, 0, :2] = 3
    assert torch.equal(atlas[0, 0], expected)


def test_the_formula_texel_by_texel(place):
    """D and A summed as the docstring writes them, over every pixel and every texel."""
    inputs = splat_inputs((2, 2, 4, 5), 3, 4, i64, torch.float64, tame=True)
    image, part, uv = inputs["image"], inputs["part"], inputs["uv"]
    D = torch.zeros(2, 3, 4, 4, dtype=torch.float64)
    A = torch.zeros(2, 3, 2, 4, 4, dtype=torch.float64)
    for n in range(2):
        for y in range(4):
            for x in range(5):
                i = int(part[n, y, x])
                if not 1 <= i <= 3:
                    continue
                u, v = uv[n, :, y, x].tolist()
                for row in range(4):
                    for column in range(4):
                        w = max(0, 1 - abs(u * 3 - column)) * max(0, 1 - abs((1 - v) * 3 - row))
                        D[n, i - 1, row, column] += w
                        A[n, i - 1, :, row, column] += w * image[n, :, y, x]
    got, weight = pk.uv_splat(**move(inputs, place.device), normalize=False)
    torch.testing.assert_close(weight.cpu(), D, rtol=0, atol=1e-13)
    torch.testing.assert_close(got.cpu(), A, rtol=0, atol=1e-13)
    got, _ = pk.uv_splat(**move(inputs, place.device))
    seen = (D > 1e-3)[:, :, None]
    torch.testing.assert_close(got.cpu(), (A / D[:, :, None]).where(seen, 0), rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", ["small", "sums", "channels", "person"])
def test_adjoint_of_gather_and_mass(place, name):
    """<splat(x), y> = <x, gather(y)>, and the weights of every pixel of a part sum to 1."""
    inputs = move(next(c for c in CASES if c.id == name).make(torch.float64), place.device)
    image, part, uv, P = (inputs[k] for k in ("image", "part", "uv", "num_parts"))
    atlas, weight = pk.uv_splat(**{**inputs, "normalize": False})
    y = features(tuple(atlas.shape), torch.float64, 9).to(place.device)
    left, right = (atlas * y).sum(), (image * pk.uv_gather(y, part, uv)).sum()
    scale = (atlas.abs() * y.abs()).sum()
    assert abs(left - right) <= 1e-12 * scale
    assert scale > 1
    counts = (part >= 1) & (part <= P) & uv.isfinite().all(1)
    assert abs(weight.sum() - counts.sum()) <= 1e-12 * weight.sum()
    torch.testing.assert_close(
        atlas.sum((1, 3, 4)), (image * counts[:, None]).sum((2, 3)), rtol=0, atol=1e-11
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_what_a_background_pixel_holds_never_shows(place, dtype):
    """NaN and infinity where part is 0 or out of range, or uv is not finite: nothing changes."""
    inputs = move(splat_inputs((2, 3, 8, 9), 3, 4, i64, dtype), place.device)
    part, uv = inputs["part"], inputs["uv"]
    outside = (part < 1) | (part > 3) | ~uv.isfinite().all(1)
    dirty = {
        **inputs,
        "image": inputs["image"].masked_fill(outside[:, None], NAN),
        "uv": uv.masked_fill(((part < 1) | (part > 3))[:, None], NAN),
    }
    contract = TestUvSplat()
    incoming = contract.incoming(move(inputs, "cpu"), contract.run(inputs))
    clean = contract.gradients(contract.run, inputs, incoming)
    noisy = contract.gradients(contract.run, dirty, incoming)
    for a, b in zip([*clean[0], *clean[1].values()], [*noisy[0], *noisy[1].values()]):
        assert torch.equal(a, b)
    assert outside.any()
    assert clean[1]["image"][outside[:, None].expand_as(clean[1]["image"])].abs().max() == 0
    assert clean[1]["uv"][outside[:, None].expand_as(clean[1]["uv"])].abs().max() == 0


@pytest.mark.parametrize("ends", [(0.0, 1.0), (-0.1, 1.1), (-INF, NAN)])
def test_no_gradient_to_uv_where_an_axis_is_clamped(place, ends):
    """0 and 1 themselves count as clamped; the other axis is still alive unless not finite."""
    image = features((1, 2, 2, 4), torch.float64).to(place.device)
    part = torch.ones(1, 2, 4, dtype=torch.int64, device=place.device)
    uv = tame_uv(1, 2, 4, 4, torch.float64).to(place.device)
    uv[0, 0, 0, :2] = torch.tensor(ends, dtype=torch.float64)
    uv[0, 1, 1, :2] = torch.tensor(ends, dtype=torch.float64)
    uv.requires_grad_()
    atlas, weight = pk.uv_splat(image, part, uv, num_parts=1, size=4)
    (grad,) = torch.autograd.grad((atlas * atlas).sum() + (weight * weight).sum(), uv)
    assert (grad[0, 0, 0, :2] == 0).all() and (grad[0, 1, 1, :2] == 0).all()
    alive = all(map(torch.isfinite, map(torch.tensor, ends)))
    assert ((grad[0, 1, 0, :2] != 0) == alive).all() and ((grad[0, 0, 1, :2] != 0) == alive).all()
    assert (grad[0, :, :, 2:] != 0).all()
    (grad,) = torch.autograd.grad(pk.uv_splat(image * NAN, part, uv, num_parts=1, size=4)[0], uv,
                                  torch.ones_like(atlas))  # fmt: skip
    assert (grad[0, 0, 0, :2] == 0).all() and (grad[0, 1, 1, :2] == 0).all()


def test_the_order_of_the_pixels_shows_in_the_bits(place):
    """The control of test_same_bits_in_every_run: it would notice sums taken in another order."""
    inputs = move(TestUvSplat.collide.make(torch.float32), place.device)
    flipped = {k: v.flip(-1).flip(-2) if isinstance(v, Tensor) else v for k, v in inputs.items()}
    atlas, weight = pk.uv_splat(**inputs)
    again, weight_again = pk.uv_splat(**flipped)
    torch.testing.assert_close(atlas, again, rtol=1e-4, atol=1e-3)
    assert not torch.equal(atlas, again)
    assert not torch.equal(weight, weight_again)


@pytest.mark.parametrize("which", ["image", "uv", "weight"])
def test_each_output_alone_gives_its_gradient(place, which):
    """A loss of one output only leaves the other's gradient undefined inside."""
    inputs = move(TestUvSplat.tame.make(torch.float64), place.device)
    image, uv = inputs["image"].requires_grad_(), inputs["uv"].requires_grad_()

    def loss(op):
        atlas, weight = op(**inputs)
        losses = {"image": atlas.sum(), "uv": atlas.pow(2).sum(), "weight": weight.pow(2).sum()}
        return losses[which]

    given = image if which == "image" else uv
    (grad,) = torch.autograd.grad(loss(pk.uv_splat), given)
    (expected,) = torch.autograd.grad(loss(pk.reference.uv_splat), given)
    torch.testing.assert_close(grad, expected, rtol=1e-10, atol=1e-10)
    assert expected.abs().max() > 0.1
