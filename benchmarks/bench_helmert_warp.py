# SPDX-License-Identifier: Apache-2.0
"""helmert_warp: ten parts of a feature volume, each by its own transform, merged by maximum."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

import pose_kernels as pk

from . import volume as scene
from .registry import Provider, ours
from .volume import P, VolumeCase, reached

_MAIN = (2, 64, 33, 65, 65)  # the network of the paper
CASES = [
    *(
        VolumeCase(*_MAIN, channels_last=last, direction=direction, main=direction != "backward")
        for direction in ("forward", "backward", "both")
        for last in (False, True)
    ),
    VolumeCase(*_MAIN, channels_last=True, dtype=torch.bfloat16),
    *(
        VolumeCase(*size, channels_last=last)
        for size in ((2, 64, 16, 64, 64), (2, 32, 64, 64, 64), (1, 256, 16, 64, 64))
        for last in (False, True)
    ),
    *(VolumeCase(2, 64, 16, 64, 64, mask="soft", channels_last=last) for last in (False, True)),
    VolumeCase(2, 64, 16, 64, 64, mask="soft", channels_last=True, direction="backward"),
]
DIFFERENTIABLE = ("volume", "transform")


def _large(case: VolumeCase) -> bool:
    """pk.reference would take more than a second."""
    return case.voxels * case.C > 1 << 18


def inputs(case: VolumeCase, device: str, seed: int = 0) -> dict[str, Tensor]:
    person = scene.person(case.N, case.D, case.H, case.W, case.poses)
    dtype = torch.float64 if case.dtype == torch.float64 else torch.float32
    mask = person.bits if case.mask == "bits" else person.soft.to(dtype)
    return {
        "volume": scene.features(case, seed).to(device),
        "mask": mask.to(device),
        "transform": person.transform.to(dtype).to(device),
    }


def reference(case: VolumeCase, volume: Tensor, mask: Tensor, transform: Tensor) -> tuple[Tensor]:
    """pk.reference, which takes minutes on a full-size volume: there, the part loop, which the
    small copy of the case holds against pk.reference like every other provider."""
    if _large(case):
        return part_loop(volume, mask, transform)
    return (pk.reference.helmert_warp(volume, mask, transform),)


def _part(mask: Tensor, i: int, dtype: torch.dtype) -> Tensor:
    """The mask of one part, (N, 1, D, H, W)."""
    if mask.is_floating_point():
        return mask[:, i : i + 1]
    return (mask >> i & 1)[:, None].to(dtype)


def _normalized(transform: Tensor, size: torch.Size) -> Tensor:
    """Voxel transforms (N, P, 3, 4) as F.affine_grid takes them: of [-1, 1], align_corners."""
    half = (torch.tensor(size[:1:-1], device=transform.device) - 1).to(transform.dtype) / 2
    linear, shift = transform[..., :3], transform[..., 3]
    # x = half (1 + g): A x = linear half g + (linear half + shift), and back
    moved = (linear @ half + shift) / half - 1
    return torch.cat([linear * half / half[:, None], moved[..., None]], -1)


def _sampled(volume: Tensor, mask: Tensor, theta: Tensor, i: int) -> Tensor:
    """One masked copy of the volume, warped."""
    grid = F.affine_grid(theta[:, i], list(volume.shape), align_corners=True)
    masked = volume * _part(mask, i, volume.dtype)
    return F.grid_sample(masked.to(grid.dtype), grid, align_corners=True)


def part_loop(volume: Tensor, mask: Tensor, transform: Tensor) -> tuple[Tensor]:
    """The formula as it stands, a part at a time, with a running maximum."""
    theta = _normalized(transform, volume.shape)
    best = _sampled(volume, mask, theta, 0)
    for i in range(1, transform.shape[1]):
        best = torch.maximum(best, _sampled(volume, mask, theta, i))
    return (best.to(volume.dtype),)


def stacked(volume: Tensor, mask: Tensor, transform: Tensor) -> tuple[Tensor]:
    """All warped copies side by side, and amax."""
    theta = _normalized(transform, volume.shape)
    copies = [_sampled(volume, mask, theta, i) for i in range(transform.shape[1])]
    return (torch.stack(copies).amax(0).to(volume.dtype),)


class Box(NamedTuple):
    """Where a part of one sample is: slices (z, y, x) of the source and of the output volume."""

    sample: int
    part: int
    source: tuple[slice, ...]
    output: tuple[slice, ...]


def boxes(mask: Tensor, transform: Tensor) -> list[Box]:
    """The parts that are anywhere. Reads sizes back from the device."""
    N, parts = transform.shape[:2]
    size = mask.shape[-3:]
    if mask.is_floating_point():
        inside = mask != 0
    else:
        bit = 1 << torch.arange(parts, dtype=torch.int32, device=mask.device)
        inside = (mask[:, None] & bit.view(-1, 1, 1, 1)) != 0
    across = inside.any(-1)
    seen = (across.any(-1), across.any(-2), inside.any(-2).any(-2))  # along z, y, x
    low = torch.stack([axis.int().argmax(-1) for axis in seen], -1)  # (N, P, 3)
    high = torch.stack(
        [n - 1 - axis.flip(-1).int().argmax(-1) for axis, n in zip(seen, size, strict=True)], -1
    )
    # The corners of the source box, a voxel wider, taken to the output by the inverse.
    corner = torch.stack([low.flip(-1) - 1, high.flip(-1) + 1], -1).double()  # (N, P, xyz, 2)
    picks = torch.cartesian_prod(*[torch.arange(2, device=mask.device)] * 3)  # (8, 3)
    source = torch.stack([corner[..., k, :][..., picks[:, k]] for k in range(3)], -2)
    linear, shift = transform[..., :3].double(), transform[..., 3:].double()
    output = torch.linalg.solve(linear, source - shift).flip(-2)  # (N, P, zyx, 8)
    limit = torch.tensor(size, device=mask.device)
    first = output.amin(-1).floor().long().clamp(min=0)
    last = torch.minimum(output.amax(-1).ceil().long(), limit - 1)
    found = []
    for n, sample in enumerate(torch.stack([low, high, first, last], -2).tolist()):
        for i, (a, b, c, d) in enumerate(sample):
            if seen[0][n, i].any() and all(p <= q for p, q in zip(c, d, strict=True)):
                spans = ((a, b), (c, d))
                both = [tuple(slice(p, q + 1) for p, q in zip(*s, strict=True)) for s in spans]
                found.append(Box(n, i, *both))
    return found


def _everywhere(found: list[Box], n: int, parts: int) -> tuple[slice, ...] | None:
    """Where all parts may be: only there can the maximum be negative."""
    mine = [box.output for box in found if box.sample == n]
    if len(mine) < parts:
        return None
    spans = [(max(s.start for s in axis), min(s.stop for s in axis)) for axis in zip(*mine)]
    return None if any(a >= b for a, b in spans) else tuple(slice(a, b) for a, b in spans)


def _crop_grid(box: Box, transform: Tensor) -> tuple[Tensor, Tensor]:
    """grid_sample's grid (1, d, h, w, 3) from the output box into the crop of the source box, with
    align_corners=False: crops may be one voxel thick. And the output voxels (d, h, w, 4)."""
    kind = {"dtype": transform.dtype, "device": transform.device}
    z, y, x = (torch.arange(s.start, s.stop, **kind) for s in box.output)
    one = torch.ones((), **kind)
    voxel = torch.stack(torch.broadcast_tensors(x, y[:, None], z[:, None, None], one), -1)
    start = torch.tensor([s.start for s in box.source[::-1]], **kind)
    size = torch.tensor([s.stop - s.start for s in box.source[::-1]], **kind)
    position = voxel @ transform[box.sample, box.part].T
    return (((position - start) * 2 + 1) / size - 1)[None], voxel


def _crop(volume: Tensor, mask: Tensor, box: Box, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Crop of the volume times crop of the mask (1, C, d, h, w), and the mask's (1, 1, d, h, w)."""
    where = (slice(box.sample, box.sample + 1), slice(None), *box.source)
    if mask.is_floating_point():
        m = mask[box.sample, box.part][box.source].to(dtype)
    else:
        m = (mask[box.sample][box.source] >> box.part & 1).to(dtype)
    return volume[where].to(dtype) * m, m


class Boxed(torch.autograd.Function):
    """Only what the parts' bounding boxes contain is sampled; the winner is kept as a byte."""

    @staticmethod
    def forward(ctx: Any, volume: Tensor, mask: Tensor, transform: Tensor) -> Tensor:
        parts, dtype = transform.shape[1], transform.dtype
        found = boxes(mask, transform)
        wanted = any(ctx.needs_input_grad)
        # Zero where any part's box is not: it takes part in the maximum with its zero.
        out = torch.zeros_like(volume, dtype=dtype)
        winner = torch.full_like(volume, 255, dtype=torch.uint8) if wanted else None
        for n in range(volume.shape[0]):
            region = _everywhere(found, n, parts)
            if region is not None:
                out[(n, slice(None), *region)] = -torch.inf
        for box in found:
            crop, _ = _crop(volume, mask, box, dtype)
            grid, _ = _crop_grid(box, transform)
            value = F.grid_sample(crop, grid, align_corners=False)[0]
            where = (box.sample, slice(None), *box.output)
            best = out[where]
            if winner is not None:
                winner[where] = winner[where].masked_fill(value > best, box.part)
            torch.maximum(best, value, out=best)
        if wanted:
            ctx.found = found
            ctx.save_for_backward(volume, mask, transform, winner)
        return out.to(volume.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        volume, mask, transform, winner = ctx.saved_tensors
        dtype, grad = transform.dtype, grads[0]
        need_volume, _, need_transform = ctx.needs_input_grad
        grad_volume = torch.zeros_like(volume, dtype=dtype)
        grad_transform = torch.zeros_like(transform)
        for box in ctx.found:
            crop, m = _crop(volume, mask, box, dtype)
            grid, voxel = _crop_grid(box, transform)
            where = (slice(box.sample, box.sample + 1), slice(None), *box.output)
            g = grad[where].to(dtype) * (winner[where] == box.part)
            g_crop, g_grid = torch.ops.aten.grid_sampler_3d_backward(
                *(g, crop, grid, 0, 0, False), [need_volume, need_transform]
            )
            if need_volume:
                grad_volume[(box.sample, slice(None), *box.source)] += (g_crop * m)[0]
            if need_transform:
                size = torch.tensor([s.stop - s.start for s in box.source[::-1]]).to(grid)
                step = (g_grid[0] * (2 / size)).flatten(0, 2)
                grad_transform[box.sample, box.part] = step.T @ voxel.flatten(0, 2)
        return (
            grad_volume.to(volume.dtype) if need_volume else None,
            None,
            grad_transform if need_transform else None,
        )


def part_boxes(volume: Tensor, mask: Tensor, transform: Tensor) -> tuple[Tensor]:
    return (Boxed.apply(volume, mask, transform),)


def interpol_pull(volume: Tensor, mask: Tensor, transform: Tensor) -> tuple[Tensor]:
    """torch-interpol's grid_pull of every part."""
    import interpol

    kind = {"dtype": transform.dtype, "device": transform.device}
    z, y, x = (torch.arange(n, **kind) for n in volume.shape[2:])
    one = torch.ones((), **kind)
    voxel = torch.stack(torch.broadcast_tensors(x, y[:, None], z[:, None, None], one), -1)
    best = None
    for i in range(transform.shape[1]):
        position = torch.einsum("nij,zyxj->nzyxi", transform[:, i], voxel).flip(-1)
        masked = (volume * _part(mask, i, volume.dtype)).to(position.dtype)
        value = interpol.grid_pull(masked, position, bound="zero", extrapolate=True)
        best = value if best is None else torch.maximum(best, value)
    assert best is not None
    return (best.to(volume.dtype),)


def kornia_warp(volume: Tensor, mask: Tensor, transform: Tensor) -> tuple[Tensor]:
    """kornia's warp_affine3d of every part, which takes the map from source to output."""
    from kornia.geometry.transform import warp_affine3d

    linear = torch.linalg.inv(transform[..., :3])
    inverse = torch.cat([linear, -linear @ transform[..., 3:]], -1)
    best = None
    for i in range(transform.shape[1]):
        masked = (volume * _part(mask, i, volume.dtype)).to(transform.dtype)
        value = warp_affine3d(masked, inverse[:, i], tuple(volume.shape[2:]))
        best = value if best is None else torch.maximum(best, value)
    assert best is not None
    return (best.to(volume.dtype),)


def providers(case: VolumeCase, device: str) -> list[Provider]:
    def pose_kernels(volume: Tensor, mask: Tensor, transform: Tensor) -> tuple[Tensor]:
        return (pk.helmert_warp(volume, mask, transform),)

    found = [
        *ours("helmert_warp", pose_kernels, device),
        Provider("part loop", "eager", part_loop, specification=_large(case)),
    ]
    if case.direction == "forward" and not case.main:  # no faster, and its graph is ten volumes
        found.append(Provider("stack + amax", "eager", stacked, gradients=False))
    if case.mask == "bits":  # soft masks fill their boxes, which are the volume
        found.append(Provider("part boxes", "smart", part_boxes, synchronizes=True))
    # The peers take five to twenty seconds a call: on the smallest volume, one of each.
    if case.direction == "forward" and case.voxels * case.C <= 1 << 23 and not case.channels_last:
        found += [
            Provider("interpol pull", "peer", interpol_pull, gradients=False, available="interpol"),
            Provider("kornia warp", "peer", kornia_warp, gradients=False, available="kornia"),
        ]
    return found


def coordinate_range(case: VolumeCase) -> int:
    return max(case.D, case.H, case.W)


def longest_sum(case: VolumeCase) -> int:
    """Forward 8 corners. A voxel's gradient sums the outputs around it: 8 a part, as the parts
    keep their sizes about; that of a transform, all outputs of a part and their channels."""
    if case.direction == "forward":
        return 8
    return max(8 * P, case.voxels // case.N if case.dtype == torch.float64 else 0)


def bytes_moved(case: VolumeCase) -> int:
    """Forward: the mask; the volume where any part is; the output written once.

    Backward: the mask, the volume where any part is, the gradient where any part is reached; the
    volume's gradient written once. The transforms and their gradients are a few kilobytes.
    """
    e, geometry = case.dtype.itemsize, 8 if case.dtype == torch.float64 else 4
    source = case.voxels * (4 if case.mask == "bits" else geometry * P)
    source += reached(case).masked * case.C * e
    written = case.voxels * case.C * e
    forward = source + written
    backward = source + reached(case).covered * case.C * e + written
    return {"forward": forward, "backward": backward, "both": forward + backward}[case.direction]


def flops(case: VolumeCase) -> int:
    """Per part and output voxel that it reaches 50 for the weights, and per channel 8 corners and
    the maximum; backward the same for the winner, then 8 corners for the volume's gradient of the
    winner and 8 for its products with the volume."""
    pairs, covered, C = reached(case).pairs, reached(case).covered, case.C
    forward = pairs * (50 + 17 * C)
    backward = forward + covered * 32 * C
    return {"forward": forward, "backward": backward, "both": forward + backward}[case.direction]
