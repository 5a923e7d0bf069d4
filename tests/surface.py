# SPDX-License-Identifier: Apache-2.0
"""Inputs of the surface ops, and how far two correct implementations of them may differ.

The bounds are first-order rounding analysis, element by element. With u the unit of the accumulator
(float32, or float64 beside float64 features) and S the side of a tile:

* a texel coordinate ``u (S-1)`` is off by at most S u, and so is each of the four weights: DELTA;
* a texel that n pixels touch sums n products: D is off by n (DELTA + n u);
* a result stored in a narrower dtype is off by one more rounding of that dtype.

Two implementations differ by at most twice that.
"""

from __future__ import annotations

import torch
from cases import INF, NAN, Inputs, geometry
from torch import Tensor

import pose_kernels as pk
from pose_kernels.reference.bilinear import TilePoints, tile_points


def tame_uv(N: int, H: int, W: int, S: int, dtype: torch.dtype, seed: int = 1) -> Tensor:
    """Coordinates whose texel fractions lie in (0.2, 0.8): away from every kink."""
    random = torch.Generator().manual_seed(seed)
    cell = torch.randint(0, max(S - 1, 1), (N, 2, H, W), generator=random)
    fraction = 0.2 + 0.6 * torch.rand((N, 2, H, W), generator=random, dtype=torch.float64)
    return ((cell + fraction) / max(S - 1, 1)).to(dtype)


def wild_uv(N: int, H: int, W: int, dtype: torch.dtype, seed: int = 2) -> Tensor:
    """Anything: outside [0, 1], the ends, NaN, infinities, values too large for an int."""
    random = torch.Generator().manual_seed(seed)
    uv = torch.rand((N, 2, H, W), generator=random, dtype=torch.float64) * 1.6 - 0.3
    special = torch.tensor([0.0, 1.0, NAN, INF, -INF, 1e30, -1e30, 1e-40, 0.5], dtype=uv.dtype)
    pick = torch.randint(0, 4 * len(special), uv.shape, generator=random)
    return uv.where(pick >= len(special), special[pick % len(special)]).to(dtype)


def parts(N: int, H: int, W: int, P: int, dtype: torch.dtype, seed: int = 3) -> Tensor:
    """Background and every part; beyond them what the dtype can hold of -1, P + 1 and extremes."""
    random = torch.Generator().manual_seed(seed)
    part = torch.randint(0, P + 1, (N, H, W), generator=random)
    info = torch.iinfo(dtype)
    special = torch.tensor([P + 1, min(info.max, 2**63 - 1), max(info.min, -1), info.min])
    pick = torch.randint(0, 6 * len(special), part.shape, generator=random)
    part = part.where(pick >= len(special), special[pick % len(special)])
    return part.to(dtype)


def touching(points: TilePoints, texels: int) -> Tensor:
    """How many pixels have each of the texels among their four corners."""
    count = torch.zeros(texels, dtype=torch.float64)
    ones = points.inside.double().expand(4, *points.inside.shape).reshape(-1)
    return count.index_add(0, points.texel.reshape(-1), ones)


def corners(maps: Tensor, points: TilePoints) -> Tensor:
    """maps (N, P, C, S, S) at the four corners of each pixel: (4, N, C, H W); 0 in background."""
    N, P, C, S, _ = maps.shape
    texels = maps.movedim(2, -1).reshape(N * P * S * S, C)
    if texels.numel() == 0:
        return maps.new_zeros((4, N, C, points.texel.shape[2]))
    return texels[points.texel].where(points.inside[..., None], 0).movedim(-1, 2)


class Surface:
    """What the bounds share: footprints of the pixels of one input, in float64."""

    def __init__(self, features: Tensor, part: Tensor, uv: Tensor, P: int, S: int) -> None:
        self.C = features.shape[-3]
        self.dtype = features.dtype
        accumulator = geometry(self.dtype)
        self.u = torch.finfo(accumulator).eps
        self.store = torch.finfo(self.dtype).eps if self.dtype != accumulator else 0.0
        self.tiny = torch.finfo(self.dtype).tiny * (1 if self.store else 0)
        self.N, self.P, self.S = part.shape[0], P, S
        self.HW = part.shape[1:]
        self.delta = 2 * S * self.u
        uv = uv.cpu().to(accumulator).double()
        self.points = tile_points(part.cpu(), uv, P, S)
        shape = (self.N, P, S, S)
        n = touching(self.points, self.N * P * S * S)
        total = torch.zeros_like(n).index_add(
            0, self.points.texel.reshape(-1), self.points.weight.reshape(-1)
        )
        self.D = total.view(shape)
        self.D_error = (n * (self.delta + n * self.u)).view(shape)

    def ambiguous(self, min_weight: float) -> Tensor:
        """Texels that may be visible in one implementation and not in another."""
        return (self.D - min_weight).abs() <= 4 * self.D_error

    def image(self, per_pixel: Tensor) -> Tensor:
        """(N, C, H W) -> (N, C, H, W)."""
        return per_pixel.reshape(*per_pixel.shape[:2], *self.HW)


def splat_bounds(inputs: Inputs, outputs: list[Tensor], grads: list[Tensor]) -> dict[str, Tensor]:
    """Bounds of atlas, weight and their gradients to image and uv; grads are the incoming ones."""
    image, normalize = inputs["image"], inputs.get("normalize", True)
    min_weight = inputs.get("min_weight", 1e-3)
    s = Surface(image, inputs["part"], inputs["uv"], inputs["num_parts"], inputs["size"])
    atlas = outputs[0].detach().cpu().double()
    inside = s.image(s.points.inside[:, None].expand(-1, s.C, -1))
    color = image.detach().cpu().double().where(inside, 0)
    largest = float(color.abs().max()) if color.numel() else 0.0
    if normalize:
        divisor = s.D.where(s.D > min_weight, INF)
        visible = (s.D > min_weight)[:, :, None]
    else:
        divisor, visible = torch.ones_like(s.D), torch.ones_like(s.D, dtype=torch.bool)[:, :, None]
    relative = (s.D_error / divisor if normalize else torch.zeros_like(s.D))[:, :, None]
    A_error = (s.D_error * largest)[:, :, None]
    atlas_bound = A_error / divisor[:, :, None] + relative * largest * visible
    atlas_bound = atlas_bound + (4 * s.u + s.store) * atlas.abs() + s.tiny
    bounds = {"atlas": 2 * atlas_bound, "weight": 2 * s.D_error}
    if not grads:
        return bounds

    g_atlas, g_weight = (g.detach().cpu().double() for g in grads)
    q = corners(g_atlas.abs() / divisor[:, :, None], s.points)
    near = corners(relative.expand(-1, -1, 1, -1, -1), s.points)
    w = s.points.weight[:, :, None]
    value = (w * q).sum(0)
    grad_image = (s.delta * q + w * q * (near + 8 * s.u)).sum(0) + s.store * value
    bounds["image"] = 2 * s.image(grad_image) + s.tiny
    spread = 2 * largest * q.sum(2) * (2 * near[:, :, 0] + (s.C + 8) * s.u + s.store + s.delta)
    direct = corners(g_weight[:, :, None].abs(), s.points)[:, :, 0] * (s.delta + 8 * s.u)
    grad_uv = s.S * (spread + direct).sum(0)[:, None].expand(-1, 2, -1)
    bounds["uv"] = 2 * s.image(grad_uv)
    return bounds


def gather_bounds(inputs: Inputs, outputs: list[Tensor], grads: list[Tensor]) -> dict[str, Tensor]:
    """Bounds of image and its gradients to atlas and uv."""
    atlas = inputs["atlas"].detach().cpu().double()
    s = Surface(inputs["atlas"], inputs["part"], inputs["uv"], atlas.shape[1], atlas.shape[-1])
    around = corners(atlas.abs(), s.points)
    value = outputs[0].detach().cpu().double().abs()
    image = s.image((s.delta + 8 * s.u) * around.sum(0)) + s.store * value
    bounds = {"image": 2 * image + s.tiny}
    if not grads:
        return bounds
    g = grads[0].detach().cpu().double().abs()
    largest = float(g.max()) if g.numel() else 0.0
    bounds["atlas"] = (2 * (s.D_error + s.store * s.D) * largest)[:, :, None] + s.tiny
    product = (around * g.flatten(2)).sum(2)
    grad_uv = s.S * (product * (s.delta + (s.C + 8) * s.u)).sum(0)[:, None].expand(-1, 2, -1)
    bounds["uv"] = 2 * s.image(grad_uv)
    return bounds


def fill_bounds(inputs: Inputs, outputs: list[Tensor], grads: list[Tensor]) -> dict[str, Tensor]:
    """Bounds of the filled atlas and of its gradient; every coefficient of the fill is >= 0."""
    atlas, weight = inputs["atlas"].detach().cpu(), inputs["weight"].detach().cpu().double()
    accumulator = geometry(atlas.dtype)
    levels = max(atlas.shape[-2:]).bit_length() + 1
    roundings = 16 * levels * torch.finfo(accumulator).eps
    store = torch.finfo(atlas.dtype).eps if atlas.dtype != accumulator else 0.0
    tiny = torch.finfo(atlas.dtype).tiny if store else 0.0
    options = {key: inputs[key] for key in ("radius", "min_weight") if key in inputs}
    magnitude = atlas.double().abs().nan_to_num(0, 0, 0).requires_grad_()
    filled = pk.reference.push_pull(magnitude, weight, **options)
    bounds = {"filled": 2 * (roundings + store) * filled.detach() + tiny}
    if grads:
        g = grads[0].detach().cpu().double().abs()
        (size,) = torch.autograd.grad(filled, magnitude, g)
        bounds["atlas"] = 2 * (roundings + store) * size + tiny
    return bounds
