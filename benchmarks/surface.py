# SPDX-License-Identifier: Apache-2.0
"""Cases of the surface ops: images, DensePose maps and atlases, and how much of them is touched."""

from __future__ import annotations

import dataclasses
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from pose_kernels.testing import synthetic_iuv

P = 24
MIN_WEIGHT = 1e-3
DTYPES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


@dataclasses.dataclass(frozen=True)
class SurfaceCase:
    """N images of C channels and H x W pixels, atlases of 24 tiles of S x S texels.

    maps: "person" (28 % foreground, synthetic_iuv), "random" (every pixel on a random texel of a
    random part: the worst case for caches) or "one texel" (every pixel of an image on the same
    four texels: the worst case for atomics).
    """

    N: int
    C: int
    H: int
    W: int
    S: int = 256
    dtype: torch.dtype = torch.float32
    channels_last: bool = False
    maps: str = "person"
    direction: str = "forward"
    radius: int | None = None  # of push_pull
    main: bool = False

    @property
    def title(self) -> str:
        words = [f"B{self.N} C{self.C} {self.H}x{self.W} S{self.S}"]
        words.append(DTYPES.get(self.dtype, str(self.dtype).removeprefix("torch.")))
        words.append("channels last" if self.channels_last else "contiguous")
        if self.maps != "person":
            words.append(f"{self.maps} uv")
        if self.radius is not None:
            words.append(f"radius {self.radius}")
        return ", ".join(words)

    def small(self) -> SurfaceCase:
        # Tiles smaller than the image: many pixels share a texel, and uv has a gradient.
        radius = None if self.radius is None else 2
        return dataclasses.replace(
            self,
            **{"N": min(self.N, 2), "C": min(self.C, 16), "H": 40, "W": 44, "S": 16},
            dtype=torch.float64,
            radius=radius,
        )


class Touched(NamedTuple):
    """What the DensePose maps of a case reach."""

    pixels: int  # foreground pixels
    texels: int  # texels with a foreground pixel within one texel
    most: int  # corners that fall on the most popular texel


@lru_cache(maxsize=2)
def maps_of(N: int, H: int, W: int, S: int, maps: str, seed: int) -> tuple[Tensor, Tensor]:
    """part (N,H,W) uint8 and uv (N,2,H,W) fp32, on the CPU."""
    if maps == "person":
        return synthetic_iuv(N, H, W, seed=seed)
    random = torch.Generator().manual_seed(seed)
    if maps == "random":
        part = torch.randint(1, P + 1, (N, H, W), generator=random, dtype=torch.uint8)
        return part, torch.rand(N, 2, H, W, generator=random)
    if maps == "one texel":
        part = torch.full((N, H, W), 2, dtype=torch.uint8)
        # Within one texel, but not equal: all four weights take part.
        texel = S // 2 + 0.1 + 0.8 * torch.rand(N, 2, H, W, generator=random)
        return part, texel / max(S - 1, 1)
    raise ValueError(f'maps must be "person", "random" or "one texel", got {maps!r}')


def maps(case: SurfaceCase, seed: int = 0) -> tuple[Tensor, Tensor]:
    return maps_of(case.N, case.H, case.W, case.S, case.maps, seed)


@lru_cache(maxsize=16)
def _touched(N: int, H: int, W: int, S: int, kind: str) -> Touched:
    part, uv = maps_of(N, H, W, S, kind, 0)
    pixel = part.flatten().nonzero().flatten()
    u, v = uv.movedim(1, -1).reshape(-1, 2)[pixel].unbind(1)
    column = (u * (S - 1)).floor().clamp(max=S - 2).long()
    row = ((1 - v) * (S - 1)).floor().clamp(max=S - 2).long()
    tile = pixel // (H * W) * P + part.flatten()[pixel].long() - 1
    corner = (tile * S + row) * S + column
    hits = torch.zeros(N * P * S * S, dtype=torch.int32)
    for step in (0, 1, S, S + 1):
        hits.index_add_(0, corner + step, torch.ones_like(corner, dtype=torch.int32))
    return Touched(len(pixel), int((hits > 0).sum()), int(hits.max()))


def touched(case: SurfaceCase) -> Touched:
    return _touched(case.N, case.H, case.W, case.S, case.maps)


def features(shape: tuple[int, ...], case: SurfaceCase, seed: int) -> Tensor:
    """Random (..., C, H, W) in the case's dtype and memory format, on the CPU."""
    random = torch.Generator().manual_seed(seed)
    stored = (*shape[:-3], *shape[-2:], shape[-3]) if case.channels_last else shape
    x = torch.randn(stored, generator=random).to(case.dtype)
    return x.movedim(-1, -3) if case.channels_last else x


def element_size(case: SurfaceCase) -> int:
    return case.dtype.itemsize


class Corners(NamedTuple):
    """The four texels around each of F points: how every pure PyTorch baseline begins."""

    texel: Tensor  # (4, F) index into one tile of S x S
    weight: Tensor  # (4, F) bilinear weights, differentiable in u and v


def corners(u: Tensor, v: Tensor, S: int) -> Corners:
    x = u.clamp(0, 1) * (S - 1)
    y = (1 - v.clamp(0, 1)) * (S - 1)
    column, row = x.detach().floor().clamp(max=S - 2), y.detach().floor().clamp(max=S - 2)
    right, down = x - column, y - row
    left, up = 1 - right, 1 - down
    texel = (row * S + column).long()
    return Corners(
        torch.stack([texel, texel + 1, texel + S, texel + S + 1]),
        torch.stack([left * up, right * up, left * down, right * down]),
    )


class Foreground(NamedTuple):
    """The F pixels of a batch that lie on a body part: how every smart baseline begins."""

    pixel: Tensor  # (F,) index into N H W
    tile: Tensor  # (F,) index into N P
    corners: Corners


def foreground(part: Tensor, uv: Tensor, S: int) -> Foreground:
    H, W = part.shape[1:]
    pixel = part.flatten().nonzero().flatten()
    tile = pixel // (H * W) * P + part.flatten().index_select(0, pixel).long() - 1
    u, v = uv.movedim(1, -1).reshape(-1, 2).index_select(0, pixel).unbind(1)
    return Foreground(pixel, tile, corners(u, v, S))
