# SPDX-License-Identifier: Apache-2.0
"""uv_gather: atlas -> image."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

import pose_kernels as pk

from . import surface
from .bench_uv_splat import tall_grid
from .registry import Provider, ours
from .surface import P, SurfaceCase, corners, element_size, foreground, touched

_MAIN = dict(N=8, C=3, H=256, W=256, main=True)
CASES = [
    *(
        SurfaceCase(**_MAIN, channels_last=last, direction=direction)
        for direction in ("forward", "backward", "both")
        for last in (False, True)
    ),
    SurfaceCase(**_MAIN, dtype=torch.bfloat16),
    *(
        SurfaceCase(1, 64, 256, 256, channels_last=last, direction=direction)
        for last in (False, True)
        for direction in ("forward", "backward")
    ),
    SurfaceCase(1, 3, 1024, 1024),
    SurfaceCase(8, 3, 256, 256, maps="random"),
    SurfaceCase(8, 3, 256, 256, maps="one texel", direction="backward"),
]
DIFFERENTIABLE = ("atlas", "uv")


def inputs(case: SurfaceCase, device: str, seed: int = 0) -> dict[str, Tensor]:
    part, uv = surface.maps(case, seed)
    atlas = surface.features((case.N, P, case.C, case.S, case.S), case, seed)
    uv = uv.to(torch.float64) if case.dtype == torch.float64 else uv
    return {"atlas": atlas.to(device), "part": part.to(device), "uv": uv.to(device)}


def reference(case: SurfaceCase, atlas: Tensor, part: Tensor, uv: Tensor) -> tuple[Tensor]:
    return (pk.reference.uv_gather(atlas, part, uv),)


def eager(atlas: Tensor, part: Tensor, uv: Tensor) -> tuple[Tensor]:
    """The formula as it stands: every pixel of the batch, one gather per corner."""
    N, _, C, S, _ = atlas.shape
    u, v = uv.flatten(2).unbind(1)
    texel, weight = corners(u, v, S)  # (4, N, H W)
    tile = (part.flatten(1).long() - 1).clamp(min=0)
    weight = weight * (part > 0).flatten(1)
    rows = atlas.movedim(2, -1)  # (N, P, S, S, C)
    if rows.is_contiguous():
        rows = rows.flatten(1, 3)
        q = (tile * S * S + texel)[..., None].expand(-1, -1, -1, C)  # (4, N, H W, C)
        corner = [rows.gather(1, q[k]).movedim(-1, 1) for k in range(4)]
    else:
        flat, channel = atlas.reshape(N, -1), torch.arange(C, device=atlas.device)[:, None]
        q = (tile[:, None] * C + channel) * S * S + texel[:, :, None]  # (4, N, C, H W)
        corner = [flat.gather(1, q[k].flatten(1)).view_as(q[k]) for k in range(4)]
    image = sum(corner[k].to(weight.dtype) * weight[k, :, None] for k in range(4))
    return (image.to(atlas.dtype).reshape(N, C, *part.shape[1:]),)


def grid_sample_per_part(atlas: Tensor, part: Tensor, uv: Tensor) -> tuple[Tensor]:
    """What the code of papers does: 24 x grid_sample of the whole image, 24 masks."""
    u, v = uv.unbind(1)
    grid = torch.stack([2 * u - 1, 1 - 2 * v], -1)
    image = torch.zeros((), dtype=uv.dtype, device=uv.device)
    for i in range(P):
        tile = atlas[:, i].to(uv.dtype)
        sampled = F.grid_sample(tile, grid, padding_mode="border", align_corners=True)
        image = image + sampled * (part == i + 1)[:, None]
    return (image.to(atlas.dtype),)


def grid_sample_volume(atlas: Tensor, part: Tensor, uv: Tensor) -> tuple[Tensor]:
    """One grid_sample of a volume whose depth is the part; the background lies outside of it."""
    u, v = (uv.clamp(0, 1) * 2 - 1).unbind(1)
    depth = torch.where(part > 0, (part.to(uv.dtype) - 1) * (2 / (P - 1)) - 1, -3.0)
    grid = torch.stack([u, -v, depth], -1)[:, None]  # (N, 1, H, W, 3)
    volume = atlas.transpose(1, 2).to(uv.dtype)  # (N, C, P, S, S)
    return (F.grid_sample(volume, grid, align_corners=True)[:, :, 0].to(atlas.dtype),)


def smart(atlas: Tensor, part: Tensor, uv: Tensor) -> tuple[Tensor]:
    """Foreground only: rows of a channels-last atlas, single elements of a contiguous one."""
    N, _, C, S, _ = atlas.shape
    H, W = part.shape[1:]
    pixel, tile, (texel, weight) = foreground(part, uv, S)
    rows = atlas.movedim(2, -1)  # (N, P, S, S, C)
    if rows.is_contiguous():
        rows = rows.reshape(-1, C)
        values = sum(
            rows.index_select(0, tile * S * S + q).to(w.dtype) * w[:, None]
            for q, w in zip(texel, weight, strict=True)
        )
        image = weight.new_zeros(N * H * W, C).index_copy_(0, pixel, values)
        return (image.to(atlas.dtype).view(N, H, W, C).movedim(-1, 1),)
    flat = atlas.reshape(-1)
    planes = []
    for c in range(C):
        q = (tile * C + c) * S * S + texel
        planes.append(
            (flat.index_select(0, q.flatten()).view_as(q).to(weight.dtype) * weight).sum(0)
        )
    image = weight.new_zeros(C, N * H * W).index_copy_(1, pixel, torch.stack(planes))
    return (image.to(atlas.dtype).view(C, N, H, W).transpose(0, 1),)


def interpol_pull(tall: Tensor, part: Tensor, uv: Tensor, S: int) -> tuple[Tensor]:
    """torch-interpol's grid_pull from one tall texture of P S rows."""
    import interpol

    grid = tall_grid(part, uv, S)
    return (interpol.grid_pull(tall.to(grid.dtype), grid).to(tall.dtype),)


def _tall(tensors: tuple) -> tuple:
    atlas, *maps = tensors
    N, _, C, S, _ = atlas.shape
    return (atlas.transpose(1, 2).reshape(N, C, P * S, S).contiguous(), *maps)


def _from_tall(gradients: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    tall, *rest = gradients
    N, C, _, S = tall.shape
    return (tall.view(N, C, P, S, S).transpose(1, 2), *rest)


def cv2_remap(textures: list, part: Tensor, uv: Tensor) -> tuple[list]:
    """cv2.remap of float HWC textures, an image at a time (it threads within an image)."""
    import cv2

    S = textures[0].shape[1]
    rows, columns = (x.numpy() for x in tall_grid(part, uv, S).unbind(-1))
    linear = cv2.INTER_LINEAR
    return ([cv2.remap(*three, linear) for three in zip(textures, columns, rows, strict=True)],)


def _cv2_textures(tensors: tuple) -> tuple:
    tall, *maps = _tall(tensors)
    return ([texture.movedim(0, -1).contiguous().numpy() for texture in tall.detach()], *maps)


def _from_cv2(outputs: tuple) -> tuple[Tensor]:
    images = torch.stack([torch.from_numpy(image) for image in outputs[0]])
    return (images.view(*images.shape[:3], -1).movedim(-1, 1),)


def providers(case: SurfaceCase, device: str) -> list[Provider]:
    def pose_kernels(atlas: Tensor, part: Tensor, uv: Tensor) -> tuple[Tensor]:
        return (pk.uv_gather(atlas, part, uv),)

    fp32 = case.dtype in (torch.float32, torch.float64)
    tall = "one tall texture, laid out outside the clock; its fp32 coordinates reach 24 S"
    found = [
        *ours("uv_gather", pose_kernels, device),
        Provider("4 x gather", "eager", eager),
        Provider("24 x grid_sample", "eager", grid_sample_per_part),
        Provider("5-D grid_sample", "smart", grid_sample_volume, coordinate_scale=2),
        Provider("foreground", "smart", smart, synchronizes=True),
        Provider(
            "interpol pull",
            "peer",
            lambda *t: interpol_pull(*t, case.S),
            prepare=_tall,
            restore=_from_tall,
            coordinate_scale=P,
            note=tall,
            available="interpol",
            synchronizes=True,
        ),
    ]
    if device == "cpu" and fp32 and case.C <= 4 and case.direction == "forward":
        remap = Provider(
            "cv2.remap HWC",
            "peer",
            cv2_remap,
            gradients=False,
            float64=False,
            prepare=_cv2_textures,
            finish=_from_cv2,
            coordinate_scale=P,
            note=tall,
            available="cv2",
        )
        found.append(remap)
    return found


def coordinate_range(case: SurfaceCase) -> int:
    return case.S


def longest_sum(case: SurfaceCase) -> int:
    """Forward 4 texels; the gradient of the atlas sums as many pixels as fall on a texel."""
    return 4 if case.direction == "forward" else max(4, touched(case).most)


def bytes_moved(case: SurfaceCase) -> int:
    """Forward: part everywhere, uv of the foreground, the touched texels; the image written once.

    Backward: of the image's gradient the foreground; gradients of atlas and uv written once.
    """
    pixels, texels, _ = touched(case)
    e = element_size(case)
    pixel_count = case.N * case.H * case.W
    read = pixel_count + pixels * 8 + texels * case.C * e
    forward = read + pixel_count * case.C * e
    atlas = case.N * P * case.S**2 * case.C * e
    backward = read + pixels * case.C * e + atlas + pixel_count * 8
    return {"forward": forward, "backward": backward, "both": forward + backward}[case.direction]


def flops(case: SurfaceCase) -> int:
    """20 per foreground pixel for the weights; per corner and channel 2 forward, 4 backward."""
    pixels = touched(case).pixels
    forward, backward = pixels * (20 + 8 * case.C), pixels * (30 + 16 * case.C)
    return {"forward": forward, "backward": backward, "both": forward + backward}[case.direction]
