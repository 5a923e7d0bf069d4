# SPDX-License-Identifier: Apache-2.0
"""helmert_fit in pure PyTorch: the specification in code. Any device; all sums in float64."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..checks import geometry_dtype

# Relative size of what cannot be told from rounding of the inputs, by their dtype.
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-13}


def helmert_fit(
    source: Tensor, target: Tensor, weight: Tensor | None = None, *, scale: bool = True
) -> Tensor:
    """See :func:`pose_kernels.helmert_fit`. First and second derivatives by plain autograd."""
    dtype = geometry_dtype(source.dtype)
    source, target = source.to(dtype), target.to(dtype)
    weight = source.new_ones(source.shape[:-1]) if weight is None else weight.to(dtype)
    return fit(source, target, weight, scale)


class Moments(NamedTuple):
    """Everything in float64; dead points are 0, and all of a fit that is not finite."""

    finite: Tensor  # (...)
    share: Tensor  # (..., K)     weights that sum to 1
    x: Tensor  # (..., K, 3)      relative to the mean
    y: Tensor
    x_mean: Tensor  # (..., 3)
    y_mean: Tensor
    M: Tensor  # (..., 3, 3)      sum share y x^T
    spread: Tensor  # (...)       sum share |x|^2, 1 where nothing turns
    turns: Tensor  # (...)        source and target both have a spread
    source_point: Tensor  # (...) the source has none
    limit: Tensor  # (...)        below it, an eigenvalue of K / sqrt(spreads) counts as 0
    reach: Tensor  # (...)        sqrt(spread of source times spread of target)


def moments(source: Tensor, target: Tensor, weight: Tensor) -> Moments:
    tolerance = TOLERANCE[source.dtype]
    source, target, weight = source.double(), target.double(), weight.double()
    live = ~(weight <= 0)
    whole = source.isfinite().all(-1) & target.isfinite().all(-1) & weight.isfinite()
    finite = (whole | ~live).all(-1)
    live = live & finite[..., None]
    zero = weight.new_zeros(())
    w = torch.where(live, weight, zero)
    x, y = (torch.where(live[..., None], points, zero) for points in (source, target))
    total = w.sum(-1, keepdim=True)
    share = w / torch.where(total > 0, total, 1)
    x_mean, y_mean = ((share[..., None] * points).sum(-2) for points in (x, y))
    x, y = x - x_mean[..., None, :], y - y_mean[..., None, :]
    M = (share[..., None] * y).mT @ x

    x_spread, y_spread = ((share * points.pow(2).sum(-1)).sum(-1) for points in (x, y))
    with torch.no_grad():
        X, Y = x_spread.detach(), y_spread.detach()
        X_all = X + x_mean.detach().pow(2).sum(-1)
        Y_all = Y + y_mean.detach().pow(2).sum(-1)
        source_point = ~(tolerance**2 * X_all < X)
        turns = ~source_point & (tolerance**2 * Y_all < Y)
        one = torch.ones_like(X)
        X, Y = torch.where(turns, X, one), torch.where(turns, Y, one)
        limit = tolerance * ((X_all / X).sqrt() + (Y_all / Y).sqrt())
    M = torch.where(turns[..., None, None], M, zero)
    spread = torch.where(turns, x_spread, one)
    return Moments(
        finite, share, x, y, x_mean, y_mean, M, spread, turns, source_point, limit, (X * Y).sqrt()
    )


def horn_matrix(M: Tensor) -> Tensor:
    """The symmetric (..., 4, 4) N with q^T N q = tr(R(q)^T M); q = (w, x, y, z)."""
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = (row.unbind(-1) for row in M.unbind(-2))
    rows = (
        (xx + yy + zz, zy - yz, xz - zx, yx - xy),
        (zy - yz, xx - yy - zz, yx + xy, xz + zx),
        (xz - zx, yx + xy, yy - xx - zz, zy + yz),
        (yx - xy, xz + zx, zy + yz, zz - xx - yy),
    )
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def rotation_matrix(q: Tensor) -> Tensor:
    """(..., 3, 3) of the unit quaternion (w, x, y, z)."""
    w, x, y, z = q.unbind(-1)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def best_rotation(m: Moments) -> tuple[Tensor, Tensor]:
    """R, the smallest of the best rotations, and the projector (..., 3, 3) on determined turns."""
    N = horn_matrix(m.M.detach() / m.reach[..., None, None])
    values, vectors = torch.linalg.eigh(N)  # ascending
    kappa = (values[..., -1:] - values) / 2
    best = kappa <= torch.where(m.turns, m.limit, 0)[..., None]
    onto = (vectors * best[..., None, :]) @ vectors.mT
    # Columns: the identity, and where that is orthogonal to all of them, half turns about axes.
    w, x, y, _ = onto.diagonal(dim1=-2, dim2=-1).unbind(-1)
    column = torch.where(w > 1e-12, 0, torch.where(x > 0.3, 1, torch.where(y > 0.3, 2, 3)))
    chosen = torch.nn.functional.one_hot(column, 4).to(onto.dtype)
    q = (onto @ chosen[..., None])[..., 0]
    q = q / q.norm(dim=-1, keepdim=True)
    w, x, y, z = q.unbind(-1)
    turn = torch.stack(  # rows: q times the imaginary units
        [torch.stack(r, -1) for r in ((-x, w, z, -y), (-y, -z, w, x), (-z, y, -x, w))], -2
    )
    eye = torch.eye(4, dtype=onto.dtype, device=onto.device)
    return rotation_matrix(q), turn @ (eye - onto) @ turn.mT


def cross_matrix(v: Tensor) -> Tensor:
    """[v]x with [v]x a = v x a."""
    x, y, z = v.unbind(-1)
    zero = torch.zeros_like(x)
    rows = ((zero, -z, y), (z, zero, -x), (-y, x, zero))
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def vee(A: Tensor) -> Tensor:
    """v of A - A^T = [v]x."""
    A = A - A.mT
    return torch.stack([A[..., 2, 1], A[..., 0, 2], A[..., 1, 0]], -1)


def turn_of(R: Tensor, M: Tensor, change: Tensor, onto: Tensor) -> Tensor:
    """omega of dR = R [omega]x where M changes so; 0 along what is not determined."""
    S = R.mT @ M
    S = (S + S.mT) / 2
    eye = torch.eye(3, dtype=S.dtype, device=S.device)
    K = S.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None] * eye - S
    K = onto @ K @ onto + (eye - onto)  # regular
    right = onto @ vee(R.mT @ change)[..., None]
    return (onto @ torch.linalg.solve(K, right))[..., 0]


def fit(source: Tensor, target: Tensor, weight: Tensor, scale: bool) -> Tensor:
    """The dispatcher op: float32 or float64, the same dtype for all three."""
    m = moments(source, target, weight)
    R, s = solve(m, scale)
    return compose(m, R, s).to(source.dtype)


def solve(m: Moments, scale: bool) -> tuple[Tensor, Tensor]:
    """R and s. Two Newton steps from the solution do not move it; their derivatives are its own."""
    R, onto = best_rotation(m)
    reach = m.reach[..., None, None]
    for _ in range(2):
        turn = cross_matrix(turn_of(R, m.M / reach, m.M / reach, onto))
        R = R + R @ (turn + turn @ turn / 2)
    if not scale:
        return R, torch.ones_like(m.spread)
    s = ((R * m.M).sum((-2, -1)) / m.spread).clamp(min=0)
    return R, torch.where(m.turns, s, m.source_point.to(s.dtype))


def compose(m: Moments, R: Tensor, s: Tensor) -> Tensor:
    linear = s[..., None, None] * R
    shift = m.y_mean - (linear @ m.x_mean[..., None])[..., 0]
    transform = torch.cat([linear, shift[..., None]], -1)
    return torch.where(m.finite[..., None, None], transform, float("nan"))


def fit_tangent(
    source: Tensor,
    target: Tensor,
    weight: Tensor,
    scale: bool,
    d_source: Tensor | None,
    d_target: Tensor | None,
    d_weight: Tensor | None,
) -> Tensor:
    """Directional derivative of the transform, in closed form."""
    m = moments(source, target, weight)
    R, s = solve(m, scale)
    live = m.share > 0
    zero = m.share.new_zeros(())
    total = torch.where(live, weight.double(), zero).sum(-1, keepdim=True)
    total = torch.where(total > 0, total, 1)

    def moved(tangent: Tensor | None, mask: Tensor) -> Tensor:
        return zero if tangent is None else torch.where(mask, tangent.double(), zero)

    dx, dy = moved(d_source, live[..., None]), moved(d_target, live[..., None])
    dp = (moved(d_weight, live) / total)[..., None]
    p = m.share[..., None]
    dx_mean, dy_mean = (dp * m.x + p * dx).sum(-2), (dp * m.y + p * dy).sum(-2)
    # The means move too, but sum p x = 0; that the shares sum to 1 scales M and the spread alike.
    dM = (dp * m.y + p * dy).mT @ m.x + (p * m.y).mT @ (dx + torch.zeros_like(m.x))
    dM = torch.where(m.turns[..., None, None], dM, zero)
    _, onto = best_rotation(m)
    reach = m.reach[..., None, None]
    dR = R @ cross_matrix(turn_of(R, m.M / reach, dM / reach, onto))
    d_linear = s[..., None, None] * dR
    if scale:
        d_spread = (dp * m.x.pow(2) + 2 * p * m.x * dx).sum((-2, -1))
        ds = ((R * dM).sum((-2, -1)) - s * d_spread) / m.spread
        d_linear = d_linear + torch.where(m.turns, ds, zero)[..., None, None] * R
    linear = s[..., None, None] * R
    d_shift = dy_mean - (d_linear @ m.x_mean[..., None] + linear @ dx_mean[..., None])[..., 0]
    tangent = torch.cat([d_linear, d_shift[..., None]], -1)
    return torch.where(m.finite[..., None, None], tangent, 0).to(source.dtype)


def fit_backward(
    grad: Tensor, source: Tensor, target: Tensor, weight: Tensor, scale: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients to source, target and weight: the adjoint of the tangent, written out."""
    m = moments(source, target, weight)
    R, onto = best_rotation(m)
    s = torch.ones_like(m.spread)
    if scale:
        s = ((R * m.M).sum((-2, -1)) / m.spread).clamp(min=0)
        s = torch.where(m.turns, s, m.source_point.to(s.dtype))
    zero = m.share.new_zeros(())
    live = m.share > 0
    total = torch.where(live, weight.double(), zero).sum(-1)
    g_linear, g_shift = grad.double().split([3, 1], -1)
    B = g_linear - g_shift @ m.x_mean[..., None, :]
    reach, turns = m.reach[..., None, None], m.turns[..., None, None]
    # As K is symmetric, the adjoint of a turn solves the same equation.
    u = s[..., None, None] * cross_matrix(turn_of(R, m.M / reach, B, onto)) / reach
    d = (R * B).sum((-2, -1)) / m.spread if scale else torch.zeros_like(s)
    eye = torch.eye(3, dtype=R.dtype, device=R.device)
    to_M = torch.where(turns, R @ (u + d[..., None, None] * eye), zero)
    to_spread = torch.where(m.turns, -s * d, zero)[..., None]
    to_x_mean = -s[..., None] * (R.mT @ g_shift)[..., 0]
    row = m.x @ to_M.mT + g_shift.mT
    column = m.y @ to_M + to_x_mean[..., None, :]
    to_share = (row * m.y).sum(-1) + (m.x * to_x_mean[..., None, :]).sum(-1)
    to_share = to_share + to_spread * m.x.pow(2).sum(-1)
    p = m.share[..., None]
    grads = (
        p * (column + 2 * to_spread[..., None] * m.x),
        p * row,
        to_share / torch.where(total > 0, total, 1)[..., None],
    )
    masks = (live[..., None], live[..., None], live)
    found = (torch.where(mask, g, zero) for mask, g in zip(masks, grads, strict=True))
    to_source, to_target, to_weight = (g.to(source.dtype) for g in found)
    return to_source, to_target, to_weight
