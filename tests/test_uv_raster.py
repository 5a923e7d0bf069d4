# SPDX-License-Identifier: Apache-2.0
"""uv_raster: the contract, answers worked by hand, and what holds for it alone."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from cases import DTYPES, NAN, Case, Inputs, features, geometry, move
from contract import Contract
from contract_modes import Modes
from hypothesis import strategies as st
from raster import Cover, raster_bounds, raster_inputs, smooth_uv
from torch import Tensor

import pose_kernels as pk
from pose_kernels.testing import synthetic_iuv

f64 = torch.float64
u8, i32, i64 = torch.uint8, torch.int32, torch.int64


def case(name: str, shape, P: int, S: int, part_dtype=i64, **options) -> Case:
    return Case(name, functools.partial(raster_inputs, shape, P, S, part_dtype, **options))


def person(dtype: torch.dtype, N: int = 2, H: int = 45, W: int = 39, S: int = 19) -> Inputs:
    part, uv = synthetic_iuv(N, H, W, dtype=geometry(dtype))
    image = features((N, 3, H, W), dtype)
    return {"image": image, "part": part, "uv": uv, "num_parts": 24, "size": S}


def random_uv(shape: tuple[int, int, int, int], S: int, dtype: torch.dtype) -> Inputs:
    """Every cell two large triangles: many on each texel, folded at random."""
    N, _, H, W = shape
    uv = (features((N, 2, H, W), f64, 1) / 4 + 0.5).to(geometry(dtype))
    part = torch.ones(N, H, W, dtype=u8)
    image = features(shape, dtype)
    return {"image": image, "part": part, "uv": uv, "num_parts": 1, "size": S, "max_edge": 2.0}


CASES = [
    case("small", (2, 3, 8, 9), 2, 12, u8),
    case("fine", (1, 2, 12, 13), 1, 40, i32),
    case("coarse", (1, 9, 16, 17), 2, 3, i64),
    case("one-pixel", (1, 1, 1, 1), 1, 1),
    case("one-texel", (2, 2, 5, 5), 2, 1, torch.uint16),
    case("one-column", (2, 3, 9, 1), 2, 5, torch.int8),
    case("all-splats", (1, 3, 6, 7), 2, 9, max_edge=0.0),
    case("no-images", (0, 3, 4, 5), 3, 4),
    case("no-channels", (2, 0, 4, 5), 3, 4),
    case("no-pixels", (2, 3, 0, 5), 3, 4),
    Case("person", person),
]


class TestUvRaster(Contract, Modes):
    op = staticmethod(pk.uv_raster)
    reference = staticmethod(pk.reference.uv_raster)
    bounds = staticmethod(raster_bounds)
    CASES = CASES
    in_every_dtype = 3
    # triangles, a texel of two, and splats in both images
    tame = case("tame", (2, 2, 3, 3), 1, 3, max_edge=0.8, wild=1000, seed=6)
    collide = Case("collide", functools.partial(random_uv, (1, 2, 24, 32), 7))
    values, differentiable, outputs = "image", ("image",), ("atlas", "weight")
    fixed = ("weight",)
    realistic = [Case("realistic", functools.partial(person, N=2, H=256, W=256, S=256))]
    sweep = st.builds(
        raster_inputs,
        shape=st.tuples(*[st.integers(0, high) for high in (3, 6, 9, 9)]),
        P=st.integers(1, 3),
        S=st.integers(1, 20),
        part_dtype=st.sampled_from([u8, torch.int8, torch.int16, i32, i64, torch.uint64]),
        dtype=st.sampled_from(DTYPES),
        max_edge=st.sampled_from([0.05, 0.3, 5.0]),
        noise=st.sampled_from([0.1, 3.0]),
        seed=st.integers(0, 99),
    )

    def incoming(self, inputs: Inputs, outputs: list[Tensor]) -> list[Tensor]:
        """No gradient where rounding decides whether a splatted texel is visible."""
        (g,) = super().incoming(inputs, outputs)
        return [g.masked_fill(Cover(move(inputs, "cpu")).ambiguous()[:, :, None], 0)]

    def dispatched(self, inputs: Inputs):
        names = ("image", "part", "uv", "num_parts", "size", "max_edge")
        return torch.ops.pose_kernels.uv_raster.default, tuple(inputs[name] for name in names)

    def grown(self, by: int) -> Inputs:
        shape = (3 + by, 4 + by, 5 + by, 6 + by)
        return raster_inputs(shape, 2 + by, 8 + by, i64, torch.float32, max_edge=0.5)


# ---- the definition


def by_definition(inputs: Inputs) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sum of colors and number of triangles per texel, and which pixels have one; with solve()."""
    image, part, uv = (inputs[k].numpy() for k in ("image", "part", "uv"))
    P, S = inputs["num_parts"], inputs["size"]
    N, C, H, W = image.shape
    total, count = np.zeros((N, P, C, S, S)), np.zeros((N, P, S, S))
    used = np.zeros(part.shape, dtype=bool)
    for n, y, x in np.ndindex(N, max(H - 1, 0), max(W - 1, 0)):
        up, right, down = (y, x), (y, x + 1), (y + 1, x)
        for cell in ((up, right, down), (right, (y + 1, x + 1), down)):
            labels = {int(part[n][p]) for p in cell}
            at = np.array([uv[n, :, i, j] for i, j in cell], dtype=np.float64)
            if len(labels) > 1 or not 1 <= min(labels) <= P or not np.isfinite(at).all():
                continue
            at = at.clip(0, 1)
            edges = np.linalg.norm(at - np.roll(at, -1, 0), axis=1)
            texels = np.stack([at[:, 0] * (S - 1), (1 - at[:, 1]) * (S - 1), np.ones(3)])
            if (edges >= inputs["max_edge"]).any() or abs(np.linalg.det(texels)) < 2e-10:
                continue
            colors = np.array([image[n, :, i, j] for i, j in cell])
            for i, j in cell:
                used[n, i, j] = True
            rows, columns = np.indices((S, S))
            targets = np.stack([columns.ravel(), rows.ravel(), np.ones(S * S)])
            weights = np.linalg.solve(texels, targets)
            inside = (weights >= -1e-6).all(0).reshape(S, S)
            value = (colors.T @ weights).reshape(C, S, S)
            tile = labels.pop() - 1
            total[n, tile] += value * inside
            count[n, tile] += inside
    return total, count, used


@pytest.mark.parametrize("noise", [0.3, 4.0], ids=["smooth", "folded"])
def test_the_formula_triangle_by_triangle(place, noise):
    inputs = raster_inputs((2, 2, 6, 7), 2, 11, i64, f64, max_edge=0.7, noise=noise, seed=4)
    total, count, used = by_definition(inputs)
    atlas, weight = (x.cpu() for x in pk.uv_raster(**move(inputs, place.device)))
    drawn = torch.from_numpy(count) > 0
    assert drawn.any() and not drawn.all() and used.any()
    assert (count > 1).any() or noise < 1
    assert torch.equal(weight[drawn], torch.from_numpy(count)[drawn])
    mean = torch.from_numpy(total / count[:, :, None].clip(1))
    everywhere = drawn[:, :, None].expand_as(atlas)
    torch.testing.assert_close(atlas[everywhere], mean[everywhere], rtol=0, atol=1e-10)

    alone = torch.from_numpy(used)  # the others are splatted where no triangle is
    rest = {**inputs, "part": inputs["part"].where(~alone, 0)}
    del rest["max_edge"]
    splat, D = pk.reference.uv_splat(**rest)
    visible = (D > 1e-3) & ~drawn
    assert visible.any()
    torch.testing.assert_close(weight[~drawn], D.where(visible, 0)[~drawn], rtol=1e-12, atol=0)
    there = visible[:, :, None].expand_as(atlas)
    torch.testing.assert_close(atlas[there], splat[there], rtol=0, atol=1e-12)
    assert (atlas[~(drawn | visible)[:, :, None].expand_as(atlas)] == 0).all()


def test_scipy_where_delaunay_chooses_the_same_triangles(place):
    """Sheared lattices: the diagonal e-s is the shorter one, so Delaunay's. Any colors."""
    interpolate = pytest.importorskip("scipy.interpolate")
    spatial = pytest.importorskip("scipy.spatial")
    H, W, S = 9, 8, 64
    y, x = torch.meshgrid(torch.arange(H, dtype=f64), torch.arange(W, dtype=f64), indexing="ij")
    bump = 0.01 * features((2, H, W), f64, 3) / 2
    bump[:, [0, -1]] = bump[:, :, [0, -1]] = 0  # the hull stays a parallelogram
    u = 0.03 + 0.08 * x + 0.035 * y + bump[0]
    v = 0.95 - 0.03 * x - 0.075 * y + bump[1]
    image = features((1, 3, H, W), f64, 4)
    part = torch.ones(1, H, W, dtype=u8)
    uv = torch.stack([u, v])[None]
    assert uv.min() > 0 and uv.max() < 1
    points = torch.stack([u * (S - 1), (1 - v) * (S - 1)], -1).reshape(-1, 2).numpy()
    triangulation = spatial.Delaunay(points)
    corner = points[triangulation.simplices]
    first, second = corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]
    area = np.abs(first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0]) / 2
    found = {tuple(sorted(t)) for t in triangulation.simplices[area > 1e-9].tolist()}
    n = (torch.arange(H - 1)[:, None] * W + torch.arange(W - 1)).flatten().tolist()
    ours = {(p, p + 1, p + W) for p in n} | {(p + 1, p + W, p + W + 1) for p in n}
    assert found == ours
    colors = image[0].flatten(1).T.numpy()
    rows, columns = np.indices((S, S))
    linear = interpolate.LinearNDInterpolator(triangulation, colors)
    expected = torch.from_numpy(linear(np.stack([columns, rows], -1))).movedim(-1, 0)
    inputs = {"image": image, "part": part, "uv": uv}
    atlas, weight = pk.uv_raster(**move(inputs, place.device), num_parts=1, size=S, max_edge=0.2)
    inside = (weight[0, 0] > 0).cpu()
    assert torch.equal(inside, expected.isfinite().all(0)) and 500 < inside.sum() < S * S
    torch.testing.assert_close(atlas[0, 0].cpu()[:, inside], expected[:, inside], rtol=0, atol=1e-9)


@pytest.mark.parametrize("noise", [0.3, 5.0], ids=["smooth", "folded"])
def test_what_is_linear_on_the_tile_comes_back(place, noise):
    """Of a color that is linear in (u, v), every mean of linear interpolations is exact."""
    uv = smooth_uv(1, 12, 14, f64, 5, noise=noise, wild=10**6).clamp(0, 1)
    part = torch.ones(1, 12, 14, dtype=u8)
    image = torch.stack([2 * uv[:, 0] - uv[:, 1], uv[:, 1] + 0.5], 1)
    atlas, weight = pk.uv_raster(
        *(x.to(place.device) for x in (image, part, uv)), num_parts=1, size=33, max_edge=1.0
    )
    u = torch.arange(33, dtype=f64).expand(33, 33) / 32
    v = 1 - u.T
    drawn = ((weight == weight.floor()) & (weight > 0))[0, 0].cpu()
    assert drawn.sum() > 400
    torch.testing.assert_close(
        atlas[0, 0].cpu()[:, drawn], torch.stack([2 * u - v, v + 0.5])[:, drawn], rtol=0, atol=1e-8
    )


@pytest.mark.parametrize("C", [1, 3, 20])
@pytest.mark.parametrize("last", [False, True])
def test_adjoint(place, C, last):
    inputs = move(raster_inputs((2, C, 14, 13), 2, 15, i64, f64, seed=7), place.device)
    x = inputs["image"].contiguous(
        memory_format=torch.channels_last if last else torch.contiguous_format
    )
    x.requires_grad_()
    atlas, weight = pk.uv_raster(**{**inputs, "image": x})
    y = features(tuple(atlas.shape), f64, 9).to(place.device)
    left = (atlas * y).sum()
    (back,) = torch.autograd.grad(left, x)
    right = (x * back).sum()
    fractions = (weight > 0) & (weight != weight.floor())
    assert fractions.any() and (weight > 1).any()  # splats take part, and overlaps
    assert abs(left - right) <= 1e-12 * (atlas * y).abs().sum()


# ---- single rules


def cell(place, part, uv, S: int, image=None, **options) -> tuple[Tensor, Tensor]:
    """A small float32 image whose colors are 1, 2, 3, .. unless given."""
    part, uv = torch.tensor([part]), torch.tensor([uv])
    if image is None:
        image = torch.arange(1.0, part.numel() + 1).view(1, 1, *part.shape[1:])
    tensors = (x.to(place.device) for x in (image, part, uv))
    atlas, weight = pk.uv_raster(*tensors, num_parts=2, size=S, **options)
    return atlas.cpu(), weight.cpu()


SQUARE = [[[0.0, 1.0], [0.0, 1.0]], [[1.0, 1.0], [0.0, 0.0]]]  # a cell over all of the tile


def test_one_cell(place):
    atlas, weight = cell(place, [[2, 2], [2, 2]], SQUARE, 3, max_edge=1.5)
    assert atlas[0, 1, 0].tolist() == [[1, 1.5, 2], [2, 2.5, 3], [3, 3.5, 4]]
    assert weight[0, 1].tolist() == [[1, 1, 2], [1, 2, 1], [2, 1, 1]]
    assert not atlas[0, 0].any() and not weight[0, 0].any()


def test_a_triangle_is_of_one_part_and_a_lone_pixel_falls_back(place):
    """d is of another part: half of the tile, and one texel of the other tile."""
    atlas, weight = cell(place, [[1, 1], [1, 2]], SQUARE, 3, max_edge=1.5)
    assert atlas[0, 0, 0].tolist() == [[1, 1.5, 2], [2, 2.5, 0], [3, 0, 0]]
    assert weight[0, 0].tolist() == [[1, 1, 1], [1, 1, 0], [1, 0, 0]]
    one = float(np.nextafter(np.float32(1), np.float32(2)))  # a splat's weight is no integer
    assert weight[0, 1].tolist() == [[0, 0, 0], [0, 0, 0], [0, 0, one]]
    assert atlas[0, 1, 0, 2].tolist() == [0, 0, pytest.approx(4)]


@pytest.mark.parametrize("max_edge", [0.25, 0.2501])
def test_an_edge_must_be_shorter_than_the_limit(place, max_edge):
    """A right triangle in u, v with the longest edge, 0.25, on the diagonal."""
    side = 0.25 * 0.6, 0.25 * 0.8
    uv = [[[0.0, side[0]], [0.0, 0.9]], [[side[1], side[1]], [0.0, 0.9]]]
    uv[0][1][0], uv[1][1][0] = 0.0, 0.0
    uv[0][0][1], uv[1][0][1] = 0.15, 0.2  # e and s are 0.25 apart
    atlas, weight = cell(place, [[1, 1], [1, 1]], uv, 41, max_edge=max_edge)
    whole = ((weight == weight.floor()) & (weight > 0)).sum()
    assert (whole > 20) == (max_edge > 0.25)


def test_lone_pixels_do_not_reach_where_a_triangle_is(place):
    """A fifth pixel of part 1, alone, on texel (0, 0) and its right neighbor, which are drawn."""
    part = [[1, 1, 0, 0], [1, 1, 0, 1]]
    uv = [[[0.0, 1.0, 0, 0], [0.0, 1.0, 0, 0.25]], [[1.0, 1.0, 0, 0], [0.0, 0.0, 0, 1.0]]]
    atlas, weight = cell(place, part, uv, 3, max_edge=1.5)
    assert atlas[0, 0, 0].tolist() == [[1, 1.5, 2], [3, 3.5, 4], [5, 5.5, 6]]
    assert torch.equal(weight, weight.floor())


def test_degenerate_triangles_are_splats(place):
    """One point, or one line, of the tile: no area, nothing to draw, so every pixel is alone."""
    point = [[[0.5, 0.5], [0.5, 0.5]], [[0.5, 0.5], [0.5, 0.5]]]
    atlas, weight = cell(place, [[1, 1], [1, 1]], point, 3)
    assert atlas[0, 0, 0, 1].tolist() == [0, pytest.approx(2.5), 0]
    assert weight[0, 0, 1, 1] == float(np.nextafter(np.float32(4), np.float32(5)))
    line = [[[0.1, 0.2], [0.3, 0.35]], [[0.1, 0.2], [0.3, 0.35]]]
    for S in (1, 2, 9):
        atlas, weight = cell(place, [[1, 1], [1, 1]], line, S, max_edge=3.0)
        image = torch.arange(1.0, 5).view(1, 1, 2, 2)
        expected = pk.reference.uv_splat(
            image, torch.ones(1, 2, 2, dtype=u8), torch.tensor([line]), num_parts=2, size=S
        )
        torch.testing.assert_close(atlas, expected[0], rtol=1e-5, atol=0)
        torch.testing.assert_close(weight, expected[1].where(expected[1] > 1e-3, 0))


def test_folded_surfaces_are_averaged(place):
    """Two cells on the same place of the tile: the mean of their colors, weight 2."""
    uv = [
        [[0.0, 1.0, 0.0], [0.0, 1.0, 0.0]],
        [[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]],
    ]
    image = torch.tensor([[[[0.0, 4.0, 8.0], [0.0, 4.0, 8.0]]]])
    atlas, weight = cell(place, [[1] * 3, [1] * 3], uv, 5, image, max_edge=1.5)
    assert weight[0, 0, 1].tolist() == [2, 3, 2, 3, 2]  # three on either diagonal
    row = [(0 + 8) / 2, (1 + 7 + 7) / 3, (2 + 6) / 2, (3 + 3 + 5) / 3, (4 + 4) / 2]
    assert atlas[0, 0, 0, 1].tolist() == pytest.approx(row)


@pytest.mark.parametrize("bad", [NAN, float("inf")])
def test_pixels_without_coordinates_take_no_part(place, bad):
    uv = [[[0.0, 1.0], [0.0, bad]], [[1.0, 1.0], [0.0, 0.0]]]
    image = torch.tensor([[[[1.0, 2.0], [3.0, NAN]]]])
    atlas, weight = cell(place, [[1, 1], [1, 1]], uv, 3, image, max_edge=1.5)
    assert atlas[0, 0, 0].tolist() == [[1, 1.5, 2], [2, 2.5, 0], [3, 0, 0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("last", [False, True])
def test_what_a_pixel_holds_stays_where_its_triangles_are(place, dtype, last):
    """NaN in background never shows; in a pixel of a part only on texels its triangles cover."""
    inputs = move(raster_inputs((1, 12, 14, 15), 2, 24, i64, dtype, seed=3), place.device)
    part, uv = inputs["part"], inputs["uv"]
    if last:
        inputs["image"] = inputs["image"].contiguous(memory_format=torch.channels_last)
    clean, weight = pk.uv_raster(**inputs)
    outside = (part < 1) | (part > 2) | ~uv.isfinite().all(1)

    def with_nan(where: Tensor) -> Tensor:
        image = inputs["image"].clone()
        image[where[:, None].expand_as(image)] = NAN
        return pk.uv_raster(**{**inputs, "image": image})[0]

    assert outside.any() and torch.equal(with_nan(outside), clean)
    atlas = with_nan(part == 1)
    assert torch.equal(atlas[:, 1], clean[:, 1]) and atlas[:, 0].isnan().any()
    assert not atlas.isnan()[(weight == 0)[:, :, None].expand_as(atlas)].any()
    y, x = ((part[0] == 1) & uv[0].isfinite().all(0)).nonzero()[20].tolist()
    half = inputs["image"].clone()
    half[0, :, y, x] = NAN
    reach = pk.reference.uv_raster(**{**inputs, "image": half})[0].isnan()
    assert torch.equal(pk.uv_raster(**{**inputs, "image": half})[0].isnan(), reach)
    grad_in = torch.ones_like(clean).masked_fill((weight == 0)[:, :, None], NAN)
    image = inputs["image"].requires_grad_()
    (grad,) = torch.autograd.grad(pk.uv_raster(**inputs)[0], image, grad_in)
    assert grad.isfinite().all()  # and NaN arriving at an empty texel is not read


def test_uv_gets_no_gradient(place):
    inputs = move(TestUvRaster.tame.make(f64), place.device)
    uv = inputs["uv"].requires_grad_()
    atlas, weight = pk.uv_raster(**inputs)
    assert not atlas.requires_grad and not weight.requires_grad
    image = inputs["image"].requires_grad_()
    atlas, weight = pk.uv_raster(**inputs)
    grads = torch.autograd.grad(atlas.sum(), (image, uv), allow_unused=True)
    assert grads[0].abs().max() > 0.1 and grads[1] is None


def test_a_weight_is_an_integer_exactly_where_triangles_are(place):
    inputs = move(raster_inputs((2, 1, 30, 31), 2, 21, i64, torch.float32, seed=5), place.device)
    _, weight = pk.uv_raster(**inputs)
    cover = Cover(move(inputs, "cpu"))
    weight = weight.cpu()
    drawn = cover.count > 0
    assert torch.equal(weight[drawn], cover.count[drawn].float())
    rest = weight[~drawn & (weight > 0)]
    assert len(rest) and (rest != rest.floor()).all()


def test_many_pixels_on_one_texel_keep_a_fraction():
    """Beyond 2^23 a float has none: the largest fraction stands for it."""
    from pose_kernels.reference.uv_raster import raster_weight

    D = torch.tensor([0.0, 5e-4, 0.25, 3.0, 2.0**23, 2.0**30])
    weight = raster_weight(torch.zeros(6), D)
    assert weight.tolist() == [0, 0, 0.25, float(np.nextafter(np.float32(3), 4)), *[8388607.5] * 2]


def test_the_order_of_the_cells_shows_in_the_bits(place):
    """The control of test_same_bits_in_every_run: it would notice sums taken in another order."""
    inputs = move(TestUvRaster.collide.make(torch.float32), place.device)
    flipped = {k: v.flip(-1).flip(-2) if isinstance(v, Tensor) else v for k, v in inputs.items()}
    atlas, weight = pk.uv_raster(**inputs)
    again, weight_again = pk.uv_raster(**flipped)
    assert torch.equal(weight, weight_again) and weight.max() > 50
    torch.testing.assert_close(atlas, again, rtol=1e-4, atol=1e-3)
    assert not torch.equal(atlas, again)
