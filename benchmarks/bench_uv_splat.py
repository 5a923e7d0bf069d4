# SPDX-License-Identifier: Apache-2.0
"""uv_splat: photo -> atlas and weight, normalized."""

from __future__ import annotations

import torch
from torch import Tensor

import pose_kernels as pk

from . import surface
from .registry import Provider, ours
from .surface import MIN_WEIGHT, P, SurfaceCase, corners, element_size, foreground, touched

_MAIN = dict(N=8, C=3, H=256, W=256, main=True)
CASES = [
    SurfaceCase(**_MAIN),
    SurfaceCase(**_MAIN, direction="backward"),
    SurfaceCase(**_MAIN, direction="both"),
    SurfaceCase(**_MAIN, dtype=torch.bfloat16),
    *(
        SurfaceCase(1, 64, 256, 256, channels_last=last, direction=direction)
        for last in (False, True)
        for direction in ("forward", "backward")
    ),
    SurfaceCase(1, 3, 1024, 1024),
    SurfaceCase(8, 3, 256, 256, maps="random"),
    SurfaceCase(8, 3, 256, 256, maps="one texel"),
]
DIFFERENTIABLE = ("image", "uv")


def inputs(case: SurfaceCase, device: str, seed: int = 0) -> dict[str, Tensor]:
    part, uv = surface.maps(case, seed)
    image = surface.features((case.N, case.C, case.H, case.W), case, seed)
    uv = uv.to(torch.float64) if case.dtype == torch.float64 else uv
    return {"image": image.to(device), "part": part.to(device), "uv": uv.to(device)}


def reference(case: SurfaceCase, image: Tensor, part: Tensor, uv: Tensor) -> tuple[Tensor, Tensor]:
    return pk.reference.uv_splat(image, part, uv, size=case.S, min_weight=MIN_WEIGHT)


def eager(image: Tensor, part: Tensor, uv: Tensor, S: int) -> tuple[Tensor, Tensor]:
    """The obvious code: every pixel of the batch, one scatter_add_ per corner, then A / D."""
    N, C = image.shape[:2]
    part = part.flatten(1).long()  # (N, H W)
    u, v = uv.flatten(2).unbind(1)
    texel, weight = corners(u, v, S)  # (4, N, H W)
    texel = texel + (part - 1).clamp(min=0) * S * S
    weight = weight * (part > 0)
    color = image.flatten(2).to(weight.dtype)
    total = weight.new_zeros(N, C, P * S * S)
    D = weight.new_zeros(N, P * S * S)
    for q, w in zip(texel, weight, strict=True):
        total = total.scatter_add_(2, q[:, None].expand(-1, C, -1), color * w[:, None])
        D = D.scatter_add_(1, q, w)
    atlas = torch.where((D > MIN_WEIGHT)[:, None], total / D.clamp(min=MIN_WEIGHT)[:, None], 0)
    return atlas.to(image.dtype).view(N, C, P, S, S).transpose(1, 2), D.view(N, P, S, S)


def smart(image: Tensor, part: Tensor, uv: Tensor, S: int) -> tuple[Tensor, Tensor]:
    """Foreground only, in two phases: D, then the shares w / D. No pass over the atlas divides.

    Few channels are added plane by plane; many as rows of a channels-last atlas.
    """
    N, C = image.shape[:2]
    pixel, tile, (texel, weight) = foreground(part, uv, S)
    D = weight.new_zeros(N * P * S * S)
    D = D.index_add_(0, (tile * S * S + texel).flatten(), weight.flatten())
    at_corner = D.index_select(0, (tile * S * S + texel).flatten()).view_as(weight)
    share = torch.where(at_corner > MIN_WEIGHT, weight / at_corner.clamp(min=MIN_WEIGHT), 0)
    if C < 16:
        color = image.transpose(0, 1).reshape(C, -1).index_select(1, pixel).to(share.dtype)
        atlas = share.new_zeros(N * P * C * S * S)
        for c in range(C):
            q = (tile * C + c) * S * S + texel
            atlas = atlas.index_add_(0, q.flatten(), (share * color[c]).flatten())
        atlas = atlas.view(N, P, C, S, S)
    else:
        color = image.movedim(1, -1).reshape(-1, C).index_select(0, pixel).to(share.dtype)
        atlas = share.new_zeros(N * P * S * S, C)
        for q, w in zip(tile * S * S + texel, share, strict=True):
            atlas = atlas.index_add_(0, q, color * w[:, None])
        atlas = atlas.view(N, P, S, S, C).movedim(-1, 2)
    return atlas.to(image.dtype), D.view(N, P, S, S)


def interpol_push(image: Tensor, part: Tensor, uv: Tensor, S: int) -> tuple[Tensor, Tensor]:
    """torch-interpol's grid_push and grid_count into one tall texture of P S rows."""
    import interpol

    N, C = image.shape[:2]
    grid, shape = tall_grid(part, uv, S), (P * S, S)
    total = interpol.grid_push(image.to(grid.dtype), grid, shape)
    D = interpol.grid_count(grid, shape)  # (N, 1, P S, S)
    atlas = torch.where(D > MIN_WEIGHT, total / D.clamp(min=MIN_WEIGHT), 0)
    return atlas.to(image.dtype).view(N, C, P, S, S).transpose(1, 2), D.view(N, P, S, S)


def tall_grid(part: Tensor, uv: Tensor, S: int) -> Tensor:
    """(row, column) of every pixel in a texture of all tiles one below the other: (N, H, W, 2).

    Background lies far outside.
    """
    u, v = uv.unbind(1)
    row = (1 - v.clamp(0, 1)) * (S - 1) + (part.to(uv.dtype) - 1) * S
    row = torch.where(part > 0, row, -10.0)
    return torch.stack([row, u.clamp(0, 1) * (S - 1)], -1)


def providers(case: SurfaceCase, device: str) -> list[Provider]:
    S = case.S

    def pose_kernels(image: Tensor, part: Tensor, uv: Tensor) -> tuple[Tensor, Tensor]:
        return pk.uv_splat(image, part, uv, size=S, min_weight=MIN_WEIGHT)

    return [
        *ours("uv_splat", pose_kernels, device),
        Provider("scatter_add_", "eager", lambda *t: eager(*t, S)),
        Provider("foreground, two-phase", "smart", lambda *t: smart(*t, S), synchronizes=True),
        Provider(
            "interpol push + count",
            "peer",
            lambda *t: interpol_push(*t, S),
            coordinate_scale=P,
            note="one tall texture: its fp32 coordinates reach 24 S, a bit of every texel goes to "
            "the wrong neighbor, at tile borders into the next part",
            available="interpol",
            synchronizes=True,
        ),
    ]


def coordinate_range(case: SurfaceCase) -> int:
    return case.S


def longest_sum(case: SurfaceCase) -> int:
    return touched(case).most


def bytes_moved(case: SurfaceCase) -> int:
    """Forward: part everywhere, image and uv of the foreground; atlas and weight written once.

    Backward: the touched texels of the atlas, its gradient and the weight as well; gradients of
    image and uv written once.
    """
    pixels, texels, _ = touched(case)
    e = element_size(case)
    maps = case.N * case.H * case.W + pixels * 8
    image, atlas = pixels * case.C * e, case.N * P * case.S**2 * (case.C * e + 4)
    forward = maps + image + atlas
    read = maps + image + texels * (2 * case.C * e + 4)
    backward = read + case.N * case.H * case.W * (case.C * e + 8)
    return {"forward": forward, "backward": backward, "both": forward + backward}[case.direction]


def flops(case: SurfaceCase) -> int:
    """About 20 per foreground pixel for the weights; per corner and channel 2 forward, 5 backward
    (two products, a difference); one division per touched texel and channel."""
    pixels, texels, _ = touched(case)
    forward = pixels * (20 + 4 * (2 * case.C + 1)) + texels * case.C
    backward = pixels * (30 + 4 * 5 * case.C) + texels * case.C
    return {"forward": forward, "backward": backward, "both": forward + backward}[case.direction]
