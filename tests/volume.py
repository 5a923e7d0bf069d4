# SPDX-License-Identifier: Apache-2.0
"""Inputs of helmert_warp, the same op made of grid_sample, and how far implementations may differ.

The bounds are first-order rounding analysis. With u the unit of the accumulator:

* a source position is a sum of three products and a shift, its fraction exact to 7 u (DELTA), or
  to 4 u times the size of the terms in float64, where the reference just adds them;
* a weight is a product of three factors in [0, 1], each off by DELTA, and of two roundings;
* a value is a sum of eight products, and a maximum is off by no more than what it is taken of;
* which part wins, and in which cell it reads, is sure where the second best is farther away than
  that and no position is within DELTA of an integer. Elsewhere no gradient arrives (``sure``).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from cases import INF, NAN, Inputs, features, geometry
from torch import Tensor

ALL_BITS = 31


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ---- maps


def rotation(random: torch.Generator) -> Tensor:
    """A rotation of any angle about any axis (3, 3), from a quaternion."""
    w, x, y, z = (q := torch.randn(4, generator=random, dtype=torch.float64)) / q.norm()
    return torch.stack(
        [
            torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)]),
            torch.stack([2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)]),
            torch.stack([2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)]),
        ]
    )


def linear_map(kind: str, random: torch.Generator) -> Tensor:
    """The left 3 x 3 of a map."""
    eye = torch.eye(3, dtype=torch.float64)
    noise = torch.randn(3, 3, generator=random, dtype=torch.float64)
    angle = float(noise[0, 0])
    plane = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    scale = 0.7 + 0.7 * torch.rand(1, generator=random, dtype=torch.float64)
    return {
        "identity": eye,
        "similarity": scale * rotation(random),
        "small-turn": 0.9 * (eye + 0.15 * (noise - noise.T)),
        "shrink": 3 * rotation(random),  # an output voxel reads 3 voxels farther: parts shrink
        "grow": 0.3 * rotation(random),
        "affine": eye + 0.4 * noise,
        "line": noise[:, :1] * noise[:1],  # rank 1
        "point": 0 * eye,  # rank 0
        "plane": torch.block_diag(plane.double() * 1.1, torch.ones(1, 1, dtype=torch.float64)),
        "mirror": eye[[2, 0, 1]] * torch.tensor([1.0, -1, 1], dtype=torch.float64),
        "tiny": 1e-12 * noise,
        "steep": 1e4 * noise,
        "outside": eye,
        "huge": 1e30 * noise,
    }[kind]


def transforms(kinds: list[str], N: int, P: int, size: tuple[int, int, int], seed: int) -> Tensor:
    """(N, P, 3, 4) float64: kinds in turn, about the center of the volume, shifted a little.

    "nan" and "inf" are similarities with such a number in one place.
    """
    random = generator(seed)
    center = torch.tensor([size[2] - 1, size[1] - 1, size[0] - 1], dtype=torch.float64) / 2
    maps = torch.zeros(N, P, 3, 4, dtype=torch.float64)
    for n in range(N):
        for p in range(P):
            kind = kinds[(n + p) % len(kinds)]
            special = {"nan": NAN, "inf": INF}.get(kind)
            left = linear_map("similarity" if special else kind, random)
            shift = center - left @ center if kind not in ("huge", "steep") else center.clone()
            if kind not in ("identity", "mirror", "plane"):
                shift = shift + torch.randn(3, generator=random, dtype=torch.float64)
            if kind == "plane":
                shift[:2] += torch.randn(2, generator=random, dtype=torch.float64)
            if kind == "mirror":
                shift = (center - left @ center).round()
            if kind == "outside":
                shift = shift + 100
            maps[n, p, :, :3], maps[n, p, :, 3] = left, shift
            if special:
                maps[n, p, int(special != special), (n + 2 * p) % 4] = special
    return maps


# ---- masks


def blobs(N: int, P: int, size: tuple[int, int, int], seed: int, radius: float = 0.2) -> Tensor:
    """(N, P, D, H, W) bool: an ellipsoid a part, overlapping; among three or more, one is empty."""
    random = generator(seed)
    axes = [torch.arange(n, dtype=torch.float64) for n in size]
    voxel = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    extent = torch.tensor(size, dtype=torch.float64)[:, None, None, None]
    center = torch.rand(N, P, 3, 1, 1, 1, generator=random, dtype=torch.float64) * (extent - 1)
    reach = radius * (0.5 + torch.rand(N, P, 1, 1, 1, 1, generator=random)) * extent + 0.5
    inside = ((voxel - center) / reach).pow(2).sum(2) <= 1
    if P >= 3:
        inside[:, P // 2] = False
    return inside


def pack(mask: Tensor, stray: int | None = None) -> Tensor:
    """(N, P, D, H, W) bool as int32 bits; ``stray``: a seed of bits that belong to no part."""
    P = mask.shape[1]
    power = (2 ** torch.arange(P)).view(-1, 1, 1, 1)
    bits = (mask * power).sum(1)
    if stray is not None:
        other = torch.randint(-(2**31), 2**31, bits.shape, generator=generator(stray))
        bits = bits | other & ~(2**P - 1)
    return bits.to(torch.int32)


def masks(kind: str, N: int, P: int, size: tuple[int, int, int], dtype: torch.dtype, seed: int):
    inside = blobs(N, P, size, seed)
    if kind == "bits":
        return pack(inside, stray=seed + 1)
    if kind == "all-bits":
        return pack(torch.ones_like(inside))
    if kind == "bool":
        return inside
    soft = torch.rand(inside.shape, generator=generator(seed + 1), dtype=torch.float64) + 0.1
    if kind == "signed":
        soft = soft * features(tuple(inside.shape), torch.float64, seed + 2).sign()
    return (soft if kind == "everywhere" else soft * inside).to(geometry(dtype))


def warp_inputs(
    shape: tuple[int, int, int, int, int],
    P: int,
    kind: str,
    maps: list[str],
    dtype: torch.dtype,
    *,
    seed: int = 0,
    low: bool = False,
) -> Inputs:
    """``low``: the transform in the features' dtype, if that is a half one."""
    N, _, *size = shape
    transform = transforms(maps, N, P, tuple(size), seed + 1)
    return {
        "volume": features(shape, dtype, seed),
        "mask": masks(kind, N, P, tuple(size), dtype, seed + 2),
        "transform": transform.to(dtype if low else geometry(dtype)),
    }


def dense_mask(mask: Tensor, P: int) -> Tensor:
    """(N, P, D, H, W) float64, of whatever kind the mask is."""
    if mask.dtype == torch.int32:
        part = torch.arange(P, device=mask.device).view(-1, 1, 1, 1)
        mask = mask[:, None] >> part & 1
    return mask.double()


# ---- the obvious formulation


def naive_warp(volume: Tensor, mask: Tensor, transform: Tensor) -> Tensor:
    """P masked copies, P x grid_sample and a maximum, in the dtype of the volume.

    ``mask`` is dense. What grid_sample does not say is spelled out: the lowest index among equals,
    and that a part whose mask is 0 all around passes nothing. grid_sample's own coordinates cost
    log2(size) bits, so only float64 is exact enough to compare with.
    """
    N, _, *size = volume.shape
    axes = [torch.arange(n, dtype=volume.dtype, device=volume.device) for n in reversed(size)]
    z, y, x = torch.meshgrid(*reversed(axes), indexing="ij")
    voxel = torch.stack([x, y, z, torch.ones_like(x)], -1)  # (D, H, W, 4)
    sides = torch.tensor(size[::-1], dtype=volume.dtype, device=volume.device)
    best = None
    for i in range(transform.shape[1]):
        position = torch.einsum("dhwk,nrk->ndhwr", voxel, transform[:, i].to(volume.dtype))
        grid = (2 * position + 1) / sides - 1  # align_corners=False: exists for one voxel too
        grid = grid.where(transform[:, i].isfinite().all(-1).all(-1)[:, None, None, None, None], 9)
        m = mask[:, i, None]
        covered = torch.nn.functional.grid_sample((m != 0).to(grid), grid, align_corners=False) > 0
        copy = volume * m
        value = torch.nn.functional.grid_sample(copy, grid, align_corners=False).where(covered, 0)
        best = value if best is None else torch.where(best >= value, best, value)
    return best


# ---- bounds


class Reads(NamedTuple):
    """What one part reads at the M = D H W output voxels; corners first. In float64."""

    value: Tensor  # (N, M, C)
    error: Tensor  # (N, M, C): how far two implementations of it may differ
    covered: Tensor  # (N, M)
    kink: Tensor  # (N, M): a position too close to an integer to tell the cell
    corner: Tensor  # (8, N, M): flat index into (N, D, H, W)
    mask: Tensor  # (8, N, M)
    weight: Tensor  # (8, N, M)
    change: Tensor  # (8, N, M): error of the weights
    slope: Tensor  # (8, 3, N, M): derivative of the weights by the position (x, y, z)
    slope_change: Tensor  # (8, 3, N, M)


class Warp:
    """Every part of one input in float64, who wins and where that is sure."""

    def __init__(self, inputs: Inputs) -> None:
        volume, transform = inputs["volume"].detach().cpu(), inputs["transform"].detach().cpu()
        accumulator = geometry(volume.dtype)
        self.u = torch.finfo(accumulator).eps
        self.float64 = accumulator == torch.float64
        self.N, self.C, *self.size = volume.shape
        self.P = transform.shape[1]
        self.M = math.prod(self.size)
        mask = inputs["mask"].detach().cpu()
        mask = mask.to(accumulator) if mask.is_floating_point() else mask
        self.mask = dense_mask(mask, self.P)
        self.transform = transform.to(accumulator).double()
        self.rows = volume.double().movedim(1, -1).reshape(self.N * self.M, self.C)
        z, y, x = torch.meshgrid(*(torch.arange(n) for n in self.size), indexing="ij")
        self.voxel = torch.stack([x, y, z, torch.ones_like(x)], -1).reshape(self.M, 4).double()
        self.parts = [self.reads(i) for i in range(self.P)]
        values = torch.stack([part.value for part in self.parts])
        self.winner = torch.zeros(values.shape[1:], dtype=torch.int64)
        best = values[0]
        for i in range(1, self.P):
            stays = best >= values[i]
            self.winner = self.winner.where(stays, i)
            best = best.where(stays, values[i])
        self.error = torch.stack([part.error for part in self.parts]).amax(0)
        self.gap = best - values
        close = (self.gap > 0) & (self.gap <= 4 * self.error)
        kink = torch.stack([part.kink for part in self.parts]).any(0)
        self.sure = ~close.any(0) & ~kink[..., None]

    def reads(self, i: int) -> Reads:
        D, H, W = self.size
        A = self.transform[:, i]  # (N, 3, 4)
        finite = A.isfinite().all(-1).all(-1)[:, None, None]
        A = A.where(finite, 0)
        position = (A @ self.voxel.T).movedim(1, 0)  # (3, N, M)
        terms = (A.abs() @ self.voxel.T).movedim(1, 0)
        position = position.where(finite[:, :, 0], -9.0)
        delta = 7 * self.u + self.u * (4 * terms if self.float64 else terms * (terms > 2**22))
        exact = ((A * 2**10).frac() == 0) & (A.abs() < 2**10)
        exact = exact.all(-1).movedim(1, 0)[..., None]
        nearly = ((position - position.round()).abs() <= 2 * delta) & ~exact
        sides = torch.tensor([W, H, D], dtype=torch.float64)[:, None, None]
        reach = ((position > -1.01) & (position < sides + 0.01)).all(0)
        kink = nearly.any(0) & reach

        position = position.clamp(-3, 2.0**25)
        lower = position.floor()
        fraction = position - lower
        base = torch.arange(self.N)[:, None] * self.M
        corner, weight, change, slope, slope_change, exists = ([] for _ in range(6))
        for k in range(8):
            far = [k & 1, k >> 1 & 1, k >> 2]
            q = [lower[r] + far[r] for r in range(3)]
            here = torch.stack([(q[r] >= 0) & (q[r] < sides[r]) for r in range(3)]).all(0)
            flat = base + ((q[2] * H + q[1]) * W + q[0]).where(here, 0).long()
            a = [fraction[r] if far[r] else 1 - fraction[r] for r in range(3)]
            pairs = torch.stack([a[1] * a[2], a[0] * a[2], a[0] * a[1]])
            sign = torch.tensor([2.0 * f - 1 for f in far], dtype=torch.float64)[:, None, None]
            w = a[0] * a[1] * a[2]
            across = torch.stack(
                [
                    delta[1] * a[2] + delta[2] * a[1],
                    delta[0] * a[2] + delta[2] * a[0],
                    delta[0] * a[1] + delta[1] * a[0],
                ]
            )
            corner.append(flat)
            exists.append(here)
            weight.append(w.where(here, 0))
            change.append(((delta * pairs).sum(0) + 3 * self.u * w).where(here, 0))
            slope.append((sign * pairs).where(here, 0))
            slope_change.append((across + 3 * self.u * pairs).where(here, 0))
        corners, w, dw = torch.stack(corner), torch.stack(weight), torch.stack(change)
        m = self.mask[:, i].reshape(-1)[corners].where(torch.stack(exists), 0)
        read = self.rows[corners] * m[..., None]
        value = (w[..., None] * read).sum(0)
        error = ((dw + 16 * self.u * w)[..., None] * read.abs()).sum(0)
        rows = self.rows.view(self.N, self.M, self.C)
        most = (self.mask[:, i].reshape(self.N, self.M, 1) * rows).abs().amax(1)
        drift = (6 * delta.amax(0) * kink)[..., None] * most[:, None]
        covered = (m != 0).any(0)
        return Reads(
            value,
            error + drift,
            covered,
            kink,
            corners,
            m,
            w,
            dw,
            torch.stack(slope),
            torch.stack(slope_change),
        )

    def volume(self, rows: Tensor) -> Tensor:
        """(N, M, C) as (N, C, D, H, W)."""
        return rows.transpose(1, 2).reshape(self.N, self.C, *self.size)


def store_error(dtype: torch.dtype) -> tuple[float, float]:
    """Relative and absolute error of storing a sum in dtype; for both implementations."""
    info = torch.finfo(dtype)
    if dtype in (torch.float32, torch.float64):
        return info.eps, 0.0
    return info.eps, info.tiny


def warp_bounds(inputs: Inputs, outputs: list[Tensor], grads: list[Tensor]) -> dict[str, Tensor]:
    """Bounds of the warped volume and the gradients of volume, a floating mask and transform."""
    warp = Warp(inputs)
    store, tiny = store_error(inputs["volume"].dtype)
    out = outputs[0].detach().cpu().double().abs()
    bounds = {"warped": warp.volume(warp.error) + store * out + tiny}
    if not grads:
        return bounds
    incoming = grads[0].detach().cpu().double().abs().movedim(1, -1).reshape(warp.N, warp.M, warp.C)
    u, rows = warp.u, warp.rows.abs()
    low, low_tiny = store_error(inputs["transform"].dtype)
    shape = (warp.N * warp.M, warp.C)
    wrong, size, count = (torch.zeros(shape, dtype=torch.float64) for _ in range(3))
    mask_bound = torch.zeros(warp.P, warp.N * warp.M, dtype=torch.float64)
    transform_bound = torch.zeros_like(warp.transform)
    for i, part in enumerate(warp.parts):
        g = incoming.where((warp.winner == i) & part.covered[..., None], 0)
        m = part.mask.abs()
        mask_size, mask_count = (torch.zeros(warp.N * warp.M, dtype=torch.float64) for _ in "12")
        slope, slope_wrong = (torch.zeros(3, warp.N, warp.M, dtype=torch.float64) for _ in "12")
        for k, q in enumerate(part.corner):
            flat = q.flatten()
            wrong.index_add_(0, flat, (g * (part.change[k] * m[k])[..., None]).flatten(0, 1))
            size.index_add_(0, flat, (g * (part.weight[k] * m[k])[..., None]).flatten(0, 1))
            count.index_add_(0, flat, ((g * m[k][..., None]) != 0).double().flatten(0, 1))
            dot = (g * rows[q]).sum(-1)
            mask_bound[i].index_add_(0, flat, (part.change[k] * dot).flatten())
            mask_size.index_add_(0, flat, (part.weight[k] * dot).flatten())
            mask_count.index_add_(0, flat, (dot != 0).double().flatten())
            slope += part.slope[k].abs() * (m[k] * dot)
            slope_wrong += part.slope_change[k] * (m[k] * dot)
        mask_bound[i] += 2 * u * (warp.C + 4 + mask_count) * mask_size
        terms = warp.C + 8 + warp.size[2] + 64
        total = slope_wrong + (2 * u * terms + (low if low > u else 0)) * slope
        transform_bound[:, i] = (total @ warp.voxel).movedim(0, 1)
    volume_bound = wrong + (2 * u * (4 + count) + store) * size + tiny
    bounds["volume"] = warp.volume(volume_bound.view(warp.N, warp.M, warp.C))
    if inputs["mask"].is_floating_point():
        mask_bound = mask_bound.view(warp.P, warp.N, *warp.size).movedim(0, 1)
        bounds["mask"] = mask_bound + 1e-30
    bounds["transform"] = transform_bound + low_tiny + 1e-30
    return bounds


def unsure_removed(inputs: Inputs, gradient: Tensor) -> Tensor:
    """The incoming gradient, 0 where rounding decides which part it goes to."""
    warp = Warp(inputs)
    return gradient.masked_fill(~warp.volume(warp.sure).to(gradient.device), 0)


def settled(make, margin: float = 1e-3, tries: int = 300) -> Inputs:
    """The first of make(0), make(1), ... where nothing is near a tie or a kink: for gradcheck."""
    for seed in range(tries):
        inputs = make(seed)
        warp = Warp(inputs)
        apart = not ((warp.gap > 0) & (warp.gap < margin)).any()
        position = torch.einsum("nprk,mk->nprm", warp.transform, warp.voxel)
        if apart and ((position - position.round()).abs() > margin).all():
            assert warp.sure.all()
            return inputs
    raise AssertionError("no seed keeps the parts apart")
