# SPDX-License-Identifier: Apache-2.0
"""region_crop: image -> windows around points."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor
from torch.nn import functional as F

import pose_kernels as pk

from .registry import Provider, ours
from .surface import DTYPES


@dataclasses.dataclass(frozen=True)
class CropCase:
    """K windows of size^2 pixels anywhere in each of N images of C channels and side^2 pixels."""

    N: int
    C: int
    side: int
    K: int
    size: int
    dtype: torch.dtype = torch.float32
    channels_last: bool = False
    direction: str = "forward"
    main: bool = False

    @property
    def title(self) -> str:
        words = [f"B{self.N} C{self.C} {self.side}x{self.side} K{self.K} s{self.size}"]
        words.append(DTYPES.get(self.dtype, str(self.dtype).removeprefix("torch.")))
        words.append("channels last" if self.channels_last else "contiguous")
        return ", ".join(words)

    def small(self) -> CropCase:
        sizes = {"N": min(self.N, 2), "C": min(self.C, 16), "side": 40, "K": 5, "size": 12}
        return dataclasses.replace(self, **sizes, dtype=torch.float64)


_MAIN = dict(N=8, C=3, side=256, K=10, size=64, main=True)
_LARGE = dict(N=1, C=3, side=1024, K=44, size=128)
CASES = [
    *(
        CropCase(**_MAIN, channels_last=last, direction=direction)
        for direction in ("forward", "backward", "both")
        for last in (False, True)
    ),
    *(CropCase(**_LARGE, direction=direction) for direction in ("forward", "backward")),
    CropCase(**_LARGE, dtype=torch.bfloat16, direction="both"),
    CropCase(2, 64, 128, 18, 16, channels_last=True),
    CropCase(1, 3, 64, 18, 8),
]
DIFFERENTIABLE = ("image",)


def inputs(case: CropCase, device: str, seed: int = 0) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(seed)
    shape = (case.N, case.C, case.side, case.side)
    image = torch.rand(shape, generator=random).to(device, case.dtype)
    if case.channels_last:
        image = image.contiguous(memory_format=torch.channels_last)
    center = torch.rand((case.N, case.K, 2), generator=random) * (case.side - 1)
    return {"image": image, "center": center.to(device)}


def reference(case: CropCase, image: Tensor, center: Tensor) -> tuple[Tensor]:
    return pk.reference.region_crop(image, center, case.size)[:1]


def corners(case: CropCase, center: Tensor) -> Tensor:
    """x0, y0 of the windows, (N, K, 2); the centers here are finite."""
    return (center.round().long() - case.size // 2).clamp(0, case.side - case.size)


def slices(case: CropCase, image: Tensor, center: Tensor) -> tuple[Tensor]:
    """The formula as it stands: a slice per window."""
    s = case.size
    windows = [
        torch.stack([image[n, :, y : y + s, x : x + s] for x, y in row])
        for n, row in enumerate(corners(case, center).tolist())
    ]
    return (torch.stack(windows),)


def positions(case: CropCase, center: Tensor) -> tuple[Tensor, Tensor]:
    """Columns and rows of the windows, (N, K, s) each."""
    start, step = corners(case, center), torch.arange(case.size, device=center.device)
    return start[..., 0, None] + step, start[..., 1, None] + step


def indexing(case: CropCase, image: Tensor, center: Tensor) -> tuple[Tensor]:
    """One advanced index for all windows; channels come last."""
    columns, rows = positions(case, center)
    n = torch.arange(case.N, device=image.device)[:, None, None, None]
    crops = image.movedim(1, -1)[n, rows[..., None], columns[..., None, :]]
    return (crops.movedim(-1, 2),)


def gathering(case: CropCase, image: Tensor, center: Tensor) -> tuple[Tensor]:
    """One gather of the flat planes, the windows of an image side by side."""
    columns, rows = positions(case, center)
    flat = (rows[..., None] * case.side + columns[..., None, :]).flatten(1)
    crops = image.flatten(2).gather(2, flat[:, None].expand(-1, case.C, -1))
    return (crops.view(case.N, case.C, case.K, case.size, case.size).transpose(1, 2),)


def stacked(case: CropCase, image: Tensor, center: Tensor) -> tuple[Tensor]:
    """One grid_sample an image, the windows of an image below each other."""
    columns, rows = (2 * p.to(image.dtype) / (case.side - 1) - 1 for p in positions(case, center))
    shape = (case.N, case.K, case.size, case.size)
    x, y = columns[..., None, :].expand(shape), rows[..., None].expand(shape)
    grid = torch.stack([x, y], -1).flatten(1, 2)
    crops = F.grid_sample(image, grid, align_corners=True)
    return (crops.unflatten(2, (case.K, case.size)).transpose(1, 2),)


def kornia(case: CropCase, image: Tensor, center: Tensor) -> tuple[Tensor]:
    """kornia's crop_and_resize: an image per window, and its corner pixels in circular order."""
    from kornia.geometry.transform import crop_and_resize

    s = case.size
    around = torch.tensor([[0, 0], [s - 1, 0], [s - 1, s - 1], [0, s - 1]], device=center.device)
    boxes = (corners(case, center)[:, :, None] + around).flatten(0, 1).to(image.dtype)
    crops = crop_and_resize(image.repeat_interleave(case.K, 0), boxes, (s, s))
    return (crops.unflatten(0, (case.N, case.K)),)


def providers(case: CropCase, device: str) -> list[Provider]:
    def pose_kernels(image: Tensor, center: Tensor) -> tuple[Tensor]:
        return pk.region_crop(image, center, case.size)[:1]

    def bound(function):
        return lambda image, center: function(case, image, center)

    found = [
        *ours("region_crop", pose_kernels, device),
        Provider("slices", "eager", bound(slices), synchronizes=True),
        Provider("advanced index", "eager", bound(indexing)),
        Provider("gather", "smart", bound(gathering)),
    ]
    if case.dtype != torch.bfloat16:  # of which a coordinate would be off by pixels
        found.append(Provider("grid_sample, stacked", "smart", bound(stacked)))
        found.append(Provider("kornia", "peer", bound(kornia), available="kornia"))
    return found


def coordinate_range(case: CropCase) -> int:
    return case.side


def longest_sum(case: CropCase) -> int:
    return 1 if case.direction == "forward" else case.K


def bytes_moved(case: CropCase) -> int:
    """Forward, what the windows cover read and the crops written; backward, those read and the
    image's gradient written."""
    e = case.dtype.itemsize * case.N * case.C
    crops, image = e * case.K * case.size**2, e * case.side**2
    forward, backward = min(crops, image) + crops, crops + image
    return {"forward": forward, "backward": backward, "both": forward + backward}[case.direction]


def flops(case: CropCase) -> int:
    """An addition per element of the crops, backward."""
    return 0 if case.direction == "forward" else case.N * case.C * case.K * case.size**2
