# SPDX-License-Identifier: Apache-2.0
"""helmert_fit: values, degenerate inputs and gradients; its modes are in test_helmert_fit_modes."""

from __future__ import annotations

import math

import pytest
import torch
from point_pairs import (
    DEGENERATE,
    INF,
    NAN,
    NOT_FINITE,
    apply,
    batch,
    exact,
    random_pairs,
    rotations,
    similar,
    similar_gradients,
)

import pose_kernels as pk
from pose_kernels.reference.helmert_fit import cross_matrix

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-11}
IDENTITY = torch.eye(3, 4, dtype=torch.float64)


def parts(transform):
    """(R, s, t) of s R | t."""
    linear, t = transform[..., :3], transform[..., 3]
    s = torch.linalg.det(linear).abs().pow(1 / 3)
    return linear / s[..., None, None], s, t


def residual(transform, source, target, weight):
    error = (apply(transform, source) - target).pow(2).sum(-1)
    return (weight * error).sum(-1)


# ---- answers that are known


@pytest.mark.parametrize("K", [3, 4, 8, 33, 100])
def test_recovers_random_similarities(place, K):
    source, transform, target = (x.to(place.device) for x in exact(500, K))
    found = pk.helmert_fit(source, target)
    assert (found - transform).abs().max() <= 1e-10
    weight = torch.rand(source.shape[:2], dtype=source.dtype, device=place.device) + 0.01
    assert (pk.helmert_fit(source, target, weight) - transform).abs().max() <= 1e-10
    rigid = torch.cat([parts(transform)[0], transform[..., 3:]], -1)
    found = pk.helmert_fit(source, apply(rigid, source), scale=False)
    assert (found - rigid).abs().max() <= 1e-10


@pytest.mark.parametrize("scale", [True, False])
def test_never_a_reflection(place, scale):
    """1e5 random three-point fits: half of them are mirrored by SVD without a sign patch."""
    generator = torch.Generator().manual_seed(0)
    source, target = torch.randn((2, 10**5, 3, 3), generator=generator, dtype=torch.float64)
    linear = pk.helmert_fit(source.to(place.device), target.to(place.device), scale=scale)[..., :3]
    det = torch.linalg.det(linear)
    assert (det > 0).all()
    R = linear / det.pow(1 / 3)[:, None, None]
    eye = torch.eye(3, dtype=R.dtype, device=R.device)
    assert (R.mT @ R - eye).abs().max() <= 1e-12


def test_by_hand(place):
    """Corners of a square: a quarter turn about x, three times as large, and moved."""
    source = torch.tensor([[0.0, 0, 0], [0, 1, 0], [0, 0, 1], [0, 1, 1]], device=place.device)
    target = torch.tensor([[7.0, 0, 0], [7, 0, 3], [7, -3, 0], [7, -3, 3]], device=place.device)
    expected = torch.tensor([[3.0, 0, 0, 7], [0, 0, -3, 0], [0, 3, 0, 0]], device=place.device)
    torch.testing.assert_close(pk.helmert_fit(source, target), expected, rtol=0, atol=1e-6)
    rigid = pk.helmert_fit(source, target, scale=False)  # s = 1 about the same center
    expected = torch.tensor([[1.0, 0, 0, 7], [0, 0, -1, -1], [0, 1, 0, 1]], device=place.device)
    torch.testing.assert_close(rigid, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("K", [3, 4, 7])
def test_is_the_least_squares_optimum(place, K, scale):
    """As the singular value solution with its sign patch, and better than every one near by."""
    source, target, weight = (x.to(place.device) for x in random_pairs(300, K))
    found = pk.helmert_fit(source, target, weight, scale=scale)
    w = weight.clamp(min=0)
    share = (w / w.sum(-1, keepdim=True))[..., None]
    x_mean, y_mean = (share * source).sum(-2), (share * target).sum(-2)
    x, y = source - x_mean[:, None], target - y_mean[:, None]
    U, S, Vt = torch.linalg.svd((share * y).mT @ x)
    sign = torch.ones_like(S)
    sign[:, 2] = torch.linalg.det(U @ Vt).sign()
    R = (U * sign[:, None]) @ Vt
    s = (S * sign).sum(-1) / (share * x.pow(2)).sum((-2, -1)) if scale else torch.ones_like(S[:, 0])
    linear = s[:, None, None] * R
    expected = torch.cat([linear, (y_mean - (linear @ x_mean[..., None])[..., 0])[..., None]], -1)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)

    best = residual(found, source, target, w)
    generator = torch.Generator().manual_seed(3)
    axis = 0.01 * torch.randn((300, 3), generator=generator, dtype=torch.float64)
    axis = axis.to(place.device)
    moved = found.clone()
    moved[..., :3] = found[..., :3] @ torch.linalg.matrix_exp(cross_matrix(axis))
    moved[..., 3] += axis.flip(-1)
    assert (residual(moved, source, target, w) > best).all()


@pytest.mark.parametrize("scale", [True, False])
def test_conjugation(place, scale):
    """In other coordinates S x the fit is S A S^-1: voxels and pixels give the same motion."""
    source, target, weight = (x.to(place.device) for x in random_pairs(50, 6))
    _, S, _ = exact(50, 1, seed=5)
    S = S.to(place.device)

    def square(transform):
        last = transform.new_tensor([0, 0, 0, 1]).expand(len(transform), 1, 4)
        return torch.cat([transform, last], -2)

    A = pk.helmert_fit(source, target, weight, scale=scale)
    expected = (square(S) @ square(A) @ torch.linalg.inv(square(S)))[:, :3]
    found = pk.helmert_fit(apply(S, source), apply(S, target), weight, scale=scale)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-9)


@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_scales_do_not_matter(place, factor):
    """Weights, source and target in other units: the same rotation, the scale that follows."""
    source, target, weight = (x.to(place.device) for x in random_pairs(50, 6))
    plain = pk.helmert_fit(source, target, weight)
    torch.testing.assert_close(pk.helmert_fit(source, target, weight * factor), plain)
    torch.testing.assert_close(pk.helmert_fit(source, target * factor, weight), plain * factor)
    small = pk.helmert_fit(source * factor, target, weight)
    torch.testing.assert_close(small[..., :3] * factor, plain[..., :3])
    torch.testing.assert_close(small[..., 3], plain[..., 3])


# ---- against the reference


@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (16, 3), (17, 5), (500, 8), (3, 33), (2, 100)])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_matches_the_reference(place, dtype, shape, scale):
    inputs = random_pairs(*shape, dtype)
    exact_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    grad = torch.randn((shape[0], 3, 4), generator=torch.Generator().manual_seed(1))
    grad = grad.to(exact_dtype)

    def run(op, device):
        given = [x.to(device).requires_grad_() for x in inputs]
        out = op(*given, scale=scale)
        assert out.dtype == exact_dtype and out.is_contiguous()
        return out.detach().cpu(), torch.autograd.grad(out, given, grad.to(device))

    out, grads = run(pk.helmert_fit, place.device)
    expected, expected_grads = run(pk.reference.helmert_fit, "cpu")
    assert similar(out, expected, TOLERANCE[exact_dtype])
    assert [x.dtype for x in grads] == [dtype] * 3
    tolerance = max(100 * TOLERANCE[exact_dtype], 2 * torch.finfo(dtype).eps)
    assert similar_gradients([x.cpu() for x in grads], expected_grads, inputs, tolerance)
    with torch.no_grad():
        again = pk.helmert_fit(*(x.to(place.device) for x in inputs), scale=scale)
    assert torch.equal(again.cpu(), out)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_does_not_depend_on_the_neighbors(place, dtype):
    """Bit for bit: a fit alone, in any batch, and beside one that is NaN."""
    inputs = [x.to(place.device) for x in random_pairs(37, 6, dtype)]
    together = pk.helmert_fit(*inputs)
    for i in (0, 15, 16, 36):
        assert torch.equal(pk.helmert_fit(*(x[i : i + 1] for x in inputs))[0], together[i])
    inputs[0][5, 2, 1] = NAN
    spoiled = pk.helmert_fit(*inputs)
    assert spoiled[5].isnan().all()
    assert torch.equal(spoiled[6:], together[6:]) and torch.equal(spoiled[:5], together[:5])


# ---- degenerate inputs

# name: s R | t where it is known to the last digit of float64
KNOWN = {
    "no weight": IDENTITY,
    "negative weights": IDENTITY,
    "one point": [[1.0, 0, 0, -2], [0, 1, 0, 3], [0, 0, 1, -1.5]],
    "one weight": [[1.0, 0, 0, 1.25], [0, 1, 0, -5], [0, 0, 1, 0.5]],
    "sources at 0": [[1.0, 0, 0, 0.5625], [0, 1, 0, 0.5], [0, 0, 1, 0.625]],
    "equal targets": [[0.0, 0, 0, 1], [0, 0, 0, 0], [0, 0, 0, 2]],
    "targets at 0": [[0.0, 0, 0, 0]] * 3,
    "all equal": [[1.0, 0, 0, -0.75], [0, 1, 0, -2], [0, 0, 1, -1]],
    "parallel lines": [[2.0, 0, 0, 0], [0, 2, 0, 0], [0, 0, 2, 0]],
    "opposite along x": [[-1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, 0]],  # about y, the first best
    "opposite along z": [[3.0, 0, 0, 0], [0, -3, 0, 0], [0, 0, -3, 0]],  # about x
    "inverted octahedron": [[1 / 3, 0, 0, 0], [0, -1 / 3, 0, 0], [0, 0, -1 / 3, 0]],
    "half turn": [[-1.0, 0, 0, 0], [0, -1, 0, 0], [0, 0, 1, 0]],
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", KNOWN)
def test_known_degenerate(place, name, dtype):
    (found,) = pk.helmert_fit(*(x.to(place.device) for x in batch(name, dtype)))
    expected = torch.as_tensor(KNOWN[name], dtype=torch.float64)
    tolerance = 1e-6 if dtype == torch.float32 else 1e-14
    torch.testing.assert_close(found.cpu().double(), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate(place, name, dtype, scale):
    """A proper similarity that no other beats, equal to the reference's, and finite gradients."""
    inputs = batch(name, dtype)
    given = [x.to(place.device).requires_grad_() for x in inputs]
    out = pk.helmert_fit(*given, scale=scale)
    expected = pk.reference.helmert_fit(*inputs, scale=scale)
    assert out.isfinite().all()
    assert similar(out.detach().cpu(), expected, TOLERANCE[dtype])
    R, s, _ = parts(out.detach().cpu().double())
    if s > 0:
        assert torch.linalg.det(out[0, :, :3].detach()) > 0
        limit = 1e-13 if dtype == torch.float64 else 1e-5
        assert (R.mT @ R - IDENTITY[:, :3]).abs().max() <= limit
    grads = torch.autograd.grad(out, given, torch.ones_like(out))
    assert all(x.isfinite().all() for x in grads)
    source = [x.requires_grad_() for x in inputs]
    expected = pk.reference.helmert_fit(*source, scale=scale)
    expected = torch.autograd.grad(expected, source, torch.ones_like(expected))
    inputs = [x.detach() for x in inputs]
    assert similar_gradients([x.cpu() for x in grads], expected, inputs, 100 * TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", NOT_FINITE)
def test_not_finite(place, name, dtype):
    """NaN for this fit only, and no gradient to it, not even from a gradient that is NaN."""
    bad, good = batch(name, dtype), random_pairs(2, 4, dtype)
    inputs = [torch.cat([g[:1], b, g[1:]]).to(place.device) for g, b in zip(good, bad, strict=True)]
    given = [x.requires_grad_() for x in inputs]
    out = pk.helmert_fit(*given)
    assert out[1].isnan().all()
    alone = pk.helmert_fit(*(x.to(place.device) for x in good))
    assert torch.equal(out[[0, 2]], alone)
    grad = torch.ones_like(out)
    grad[1] = NAN
    grads = torch.autograd.grad(out, given, grad)
    assert all((x[1] == 0).all() and x[[0, 2]].abs().max() > 0 for x in grads)
    assert all(x.isfinite().all() for x in grads)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_dead_points_are_not_looked_at(place, dtype):
    source, target, weight = (x.to(place.device) for x in random_pairs(20, 5, dtype))
    assert (weight[:, 4] <= 0).all() and (weight < 0).any()
    expected = pk.helmert_fit(source[:, :4], target[:, :4], weight[:, :4])
    source[:, 4], target[:, 4] = INF, NAN
    given = [x.requires_grad_() for x in (source, target, weight)]
    out = pk.helmert_fit(*given)
    assert torch.equal(out, expected)
    grads = torch.autograd.grad(out.pow(2).sum(), given)
    assert all((x[:, 4] == 0).all() for x in grads)
    assert all((x[:, :4] != 0).all() for x in grads)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_lines_turn_as_little_as_possible(place, dtype):
    """Six points on each of 200 pairs of random lines, away from the origin as joints are."""
    generator = torch.Generator().manual_seed(0)
    position = torch.randn((200, 6, 1), generator=generator, dtype=torch.float64)
    a, b, shift = torch.randn((3, 200, 1, 3), generator=generator, dtype=torch.float64)
    source, target = (100 + 30 * shift + 20 * position * x for x in (a, b))
    a, b = a / a.norm(dim=-1, keepdim=True), b / b.norm(dim=-1, keepdim=True)
    out = pk.helmert_fit(source.to(dtype).to(place.device), target.to(dtype).to(place.device))
    R, _, _ = parts(out.cpu().double())
    limit = 1e-11 if dtype == torch.float64 else 2e-4  # rounding of the points over their spread
    assert ((R @ a.mT)[..., 0] - b[:, 0]).abs().max() <= limit
    cosine = (R.diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2
    angle = torch.atan2(torch.linalg.cross(a, b).norm(dim=-1), (a * b).sum(-1))[:, 0]
    assert (cosine.clamp(-1, 1).acos() - angle).abs().max() <= math.sqrt(limit)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_a_bend_above_rounding_is_seen(place, dtype):
    """The control of the test above: a limb bent by a degree has a twist of its own."""
    bend = math.radians(1)
    source = torch.tensor([[0.0, 0, 0], [0, 1, 0], [math.sin(bend), 1 + math.cos(bend), 0]])
    turn = rotations(1, torch.Generator().manual_seed(2))[0]
    source = source.double() * 20
    target = source @ turn.mT
    out = pk.helmert_fit(source.to(dtype).to(place.device), target.to(dtype).to(place.device))
    limit = 1e-9 if dtype == torch.float64 else 1e-3  # rounding over the second singular value
    assert (out[:, :3].cpu().double() - turn).abs().max() <= limit


# ---- gradients


@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("K", [3, 5])
def test_gradcheck(place, K, scale):
    """Reverse, forward and batched; three points are a plane: one singular value of M is 0."""
    source, target, weight = random_pairs(2, K)
    weight = weight.where(weight > 0, 0.5)
    given = [x.to(place.device).requires_grad_() for x in (source, target, weight)]
    assert torch.autograd.gradcheck(
        lambda *t: pk.helmert_fit(*t, scale=scale),
        given,
        check_forward_ad=True,
        check_batched_grad=True,
        check_batched_forward_grad=True,
    )


@pytest.mark.parametrize("scale", [True, False])
def test_the_reference_has_first_and_second_derivatives(scale):
    inputs = [x.requires_grad_() for x in random_pairs(2, 3)]
    options = dict(check_forward_ad=True, check_batched_grad=True)

    def run(*tensors):
        return pk.reference.helmert_fit(*tensors, scale=scale)

    assert torch.autograd.gradcheck(run, inputs, check_batched_forward_grad=True, **options)
    assert torch.autograd.gradgradcheck(run, inputs, check_fwd_over_rev=True)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_gradient_of_equal_singular_values(place, dtype):
    """An octahedron: autograd through a singular value decomposition divides by zero here."""
    axes = torch.cat([torch.eye(3), -torch.eye(3)]).to(dtype)
    turn = rotations(1, torch.Generator().manual_seed(1))[0].to(dtype)
    source = axes[None].to(place.device).requires_grad_()
    target = (axes @ turn.mT)[None].to(place.device)
    generator = torch.Generator().manual_seed(0)
    tangent = torch.randn(source.shape, generator=generator).to(dtype).to(place.device)
    out = pk.helmert_fit(source, target)
    upstream = torch.randn(out.shape, generator=generator).to(dtype).to(place.device)
    (grad,) = torch.autograd.grad(out, source, upstream)
    assert grad.isfinite().all()
    h = 1e-6
    with torch.no_grad():
        there, back = (
            pk.helmert_fit((source + sign * h * tangent).double(), target.double())
            for sign in (1, -1)
        )
    slope = ((there - back) / (2 * h) * upstream).sum()
    tolerance = 1e-8 if dtype == torch.float64 else 1e-1  # h is near the resolution of float32
    assert abs((grad * tangent).sum() - slope) <= tolerance * slope.abs()


def test_collinear_points_have_the_gradient_of_their_line(place):
    """No gradient along the twist; moving a target along the line scales, across it turns."""
    source = torch.tensor([[-1.0, 0, 0], [0, 0, 0], [1, 0, 0]], dtype=torch.float64)
    source = source.to(place.device)
    target = source.clone().requires_grad_()
    out = pk.helmert_fit(source, target)
    rows = [torch.autograd.grad(y, target, retain_graph=True)[0] for y in out.flatten()]
    jacobian = torch.stack(rows).view(3, 4, 3, 3).cpu()
    expected = torch.zeros(3, 4, 3, 3, dtype=torch.float64)
    for axis in range(3):
        expected[axis, 3, :, axis] = 1 / 3  # the mean moves
        expected[axis, axis, 0, 0], expected[axis, axis, 2, 0] = -0.5, 0.5  # s
    for axis in (1, 2):  # turns about z and about y
        expected[axis, 0, 0, axis], expected[axis, 0, 2, axis] = -0.5, 0.5
        expected[0, axis, 0, axis], expected[0, axis, 2, axis] = 0.5, -0.5
    torch.testing.assert_close(jacobian, expected, rtol=0, atol=1e-12)
