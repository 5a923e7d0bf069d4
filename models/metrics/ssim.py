# SPDX-License-Identifier: Apache-2.0
"""Structural similarity by the protocols that published numbers were measured with.

A number is comparable only within one protocol, so there is no default other than by name:

======== ================ ========== ============================ ================================
preset   window           covariance values, range                used by
======== ================ ========== ============================ ================================
dsc      Gaussian 11x11,  biased     0..255, that of the          Deformable GANs, PATN, Dense
         sigma 1.5                   generated picture            Pose Transfer, RATE-Net
diaf     uniform 7x7      sample     0..255, 255                  Dense Intrinsic Appearance Flow
warp3d   uniform 7x7      sample     0..1, that of the whole set  Reposing by 3D warping
lwb      uniform 7x7      sample     -1..1, 2                     Liquid Warping GAN
gfla51   uniform 51x51    sample     0..1, 1                      Global-Flow-Local-Attention
======== ================ ========== ============================ ================================

dsc pads pictures of 256 x 176 (H x W) with 40 white columns on both sides. The value of a picture
is the mean over the windows that lie inside, and over the channels, of

    (2 m_x m_y + C1) (2 cov + C2) / ((m_x^2 + m_y^2 + C1) (var_x + var_y + C2)),

C1 = (0.01 range)^2, C2 = (0.03 range)^2. Source: Wang et al., "Image Quality Assessment: From Error
Visibility to Structural Similarity", 2004. Sums are taken in float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Preset = Literal["dsc", "diaf", "warp3d", "lwb", "gfla51"]

MS_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang et al. 2003, finest first


@dataclass(frozen=True)
class _Protocol:
    """window: its side; sigma: of a Gaussian, None = uniform; values = low + scale * byte."""

    window: int
    sigma: float | None
    sample: bool
    scale: float
    low: float
    range: float | None  # None: measured


PRESETS: dict[str, _Protocol] = {
    "dsc": _Protocol(11, 1.5, False, 1.0, 0.0, None),
    "diaf": _Protocol(7, None, True, 1.0, 0.0, 255.0),
    "warp3d": _Protocol(7, None, True, 1 / 255, 0.0, None),
    "lwb": _Protocol(7, None, True, 2 / 255, -1.0, 2.0),
    "gfla51": _Protocol(51, None, True, 1 / 255, 0.0, 1.0),
}


def ssim(
    generated: Tensor, truth: Tensor, preset: Preset = "dsc", *, data_range: float | None = None
) -> Tensor:
    """SSIM (N,) float64 of each picture, by a protocol of the module's table.

    Args:
        generated, truth: (N, 3, H, W) uint8, on any device.
        preset: the protocol.
        data_range: for warp3d, the greatest value less the least one of both in the whole
            evaluated set, in 0..1, as `joint_range` gives it; None takes these pictures for the
            whole set. The others have their own.

    A generated picture of one color has the range 0 in dsc; it is taken as 1.

    Raises ValueError for other shapes, types or presets, and pictures smaller than the window.
    """
    rule, x, y, value_range = _prepared(generated, truth, preset, data_range)
    values = _similarity(_means(x, y, rule), rule, value_range)
    return values.mean((1, 2, 3))


def ssim_map(
    generated: Tensor, truth: Tensor, preset: Preset = "warp3d", *, data_range: float | None = None
) -> Tensor:
    """SSIM (N, 3, H, W) float64 around every pixel; beyond the border pictures are mirrored.

    Arguments and errors are those of `ssim`; dsc pads no white here.
    """
    rule, x, y, value_range = _prepared(generated, truth, preset, data_range, pad=False)
    radius = rule.window // 2
    return _similarity(_means(_mirrored(x, radius), _mirrored(y, radius), rule), rule, value_range)


def masked_ssim(
    generated: Tensor,
    truth: Tensor,
    mask: Tensor,
    preset: Preset = "warp3d",
    *,
    data_range: float | None = None,
) -> Tensor:
    """Mean (N,) float64 of `ssim_map` weighted by a mask (N, H, W) or (N, 1, H, W).

    With warp3d and a mask of the target pose's parts it is SSIM_fg of "Reposing Humans by Warping
    3D Features", with one less the mask its SSIM_bg. NaN for a picture with an empty mask.

    Raises ValueError as `ssim`, and for a mask of another shape.
    """
    weight = mask[:, None] if mask.dim() == 3 else mask
    n, _, height, width = generated.shape
    if weight.shape != (n, 1, height, width):
        raise ValueError(
            f"mask must be (N, H, W) or (N, 1, H, W) = {(n, 1, height, width)}, "
            f"got {tuple(mask.shape)}"
        )
    weight = weight.double()
    values = ssim_map(generated, truth, preset, data_range=data_range)
    return (values.mean(1, keepdim=True) * weight).sum((1, 2, 3)) / weight.sum((1, 2, 3))


def joint_range(*pictures: Tensor) -> float:
    """Greatest value less the least one of uint8 pictures, as values in 0..1."""
    return (max(int(p.max()) for p in pictures) - min(int(p.min()) for p in pictures)) / 255


def ms_ssim(generated: Tensor, truth: Tensor) -> Tensor:
    """Multi-scale SSIM (N,) float64 of (N, 3, H, W) uint8 pictures.

    Five scales, 2 x 2 means between them, Gaussian windows of 11 x 11 with sigma 1.5, biased
    covariance, range 255. Per channel, then the mean of the channels; negative structure counts 0.

    Source: Wang, Simoncelli and Bovik, "Multi-scale Structural Similarity for Image Quality
    Assessment", 2003.

    Raises ValueError for other shapes or types, and sides below 161: the fifth scale must hold a
    window.
    """
    check_pictures(generated, truth)
    if min(generated.shape[2:]) < 161:
        raise ValueError(
            f"ms_ssim needs pictures of at least 161 x 161 pixels, got {tuple(generated.shape[2:])}"
        )
    rule = _Protocol(11, 1.5, False, 1.0, 0.0, 255.0)
    x, y = generated.double(), truth.double()
    value_range = x.new_full((1, 1, 1, 1), 255.0)
    result = x.new_ones(x.shape[:2])
    for scale, weight in enumerate(MS_WEIGHTS):
        last = scale == len(MS_WEIGHTS) - 1
        values = _similarity(_means(x, y, rule), rule, value_range, luminance=last)
        result = result * values.mean((2, 3)).clamp(min=0) ** weight
        # odd sides keep their last column, so that 161 pixels still give 11
        x, y = (F.avg_pool2d(one, 2, ceil_mode=True, count_include_pad=False) for one in (x, y))
    return result.mean(1)


def check_pictures(generated: Tensor, truth: Tensor) -> None:
    """Raises ValueError unless both are (N, 3, H, W) uint8 of one shape."""
    for name, picture in (("generated", generated), ("truth", truth)):
        if picture.dim() != 4 or picture.shape[1] != 3 or picture.dtype != torch.uint8:
            raise ValueError(
                f"{name} must be (N, 3, H, W) uint8, got {tuple(picture.shape)} {picture.dtype}"
            )
    if generated.shape != truth.shape:
        raise ValueError(
            "generated and truth must have one shape, "
            f"got {tuple(generated.shape)} and {tuple(truth.shape)}"
        )


def _prepared(
    generated: Tensor, truth: Tensor, preset: str, data_range: float | None, pad: bool = True
) -> tuple[_Protocol, Tensor, Tensor, Tensor]:
    """The protocol, both pictures in its values, and the range (N or 1, 1, 1, 1)."""
    if preset not in PRESETS:
        raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got {preset!r}")
    if data_range is not None and preset != "warp3d":
        raise ValueError(f"data_range is for warp3d only, got {data_range} with {preset}")
    check_pictures(generated, truth)
    rule = PRESETS[preset]
    if preset == "dsc" and pad and generated.shape[2:] == (256, 176):
        generated, truth = (F.pad(one, (40, 40), value=255) for one in (generated, truth))
    if min(generated.shape[2:]) < rule.window:
        raise ValueError(
            f"ssim {preset} needs pictures of at least {rule.window} x {rule.window} pixels, "
            f"got {tuple(generated.shape[2:])}"
        )
    x, y = (one.double() * rule.scale + rule.low for one in (generated, truth))
    if rule.range is not None:
        value_range = x.new_full((1, 1, 1, 1), rule.range)
    elif preset == "dsc":
        value_range = (x.amax((1, 2, 3), True) - x.amin((1, 2, 3), True)).clamp(min=1)
    else:
        if data_range is None:
            data_range = joint_range(generated, truth) if generated.numel() else 1.0
        value_range = x.new_full((1, 1, 1, 1), max(data_range, 1 / 255))
    return rule, x, y, value_range


def _means(x: Tensor, y: Tensor, rule: _Protocol) -> tuple[Tensor, ...]:
    """Means over the windows inside of x, y, x^2, y^2, x y."""
    planes = torch.cat([x, y, x * x, y * y, x * y])
    n, c, height, width = planes.shape
    planes = planes.reshape(n * c, 1, height, width)
    if rule.sigma is None:
        planes = F.avg_pool2d(F.avg_pool2d(planes, (rule.window, 1), 1), (1, rule.window), 1)
    else:
        steps = torch.arange(rule.window, dtype=x.dtype, device=x.device) - rule.window // 2
        kernel = torch.exp(-(steps**2) / (2 * rule.sigma**2))
        kernel = kernel / kernel.sum()
        planes = F.conv2d(F.conv2d(planes, kernel.view(1, 1, -1, 1)), kernel.view(1, 1, 1, -1))
    return planes.view(n, c, *planes.shape[2:]).chunk(5)


def _similarity(
    means: tuple[Tensor, ...], rule: _Protocol, value_range: Tensor, luminance: bool = True
) -> Tensor:
    """The formula at every window; without luminance its factor of structure and contrast alone."""
    x, y, xx, yy, xy = means
    count = rule.window**2
    unbiased = count / (count - 1) if rule.sample else 1.0
    c1, c2 = (0.01 * value_range) ** 2, (0.03 * value_range) ** 2
    variances = unbiased * (xx - x * x + yy - y * y)
    values = (2 * unbiased * (xy - x * y) + c2) / (variances + c2)
    return values * (2 * x * y + c1) / (x * x + y * y + c1) if luminance else values


def _mirrored(x: Tensor, radius: int) -> Tensor:
    """Continued by `radius` pixels with the border pixel repeated: d c b a | a b c d | d c b a."""
    for axis in (2, 3):
        size = x.shape[axis]
        at = torch.arange(-radius, size + radius, device=x.device)
        at = torch.where(at < 0, -1 - at, at)
        x = x.index_select(axis, torch.where(at >= size, 2 * size - 1 - at, at))
    return x
