# SPDX-License-Identifier: Apache-2.0
"""What the networks on pictures are made of: bottleneck units, a stem, upsampling on either grid.

Source: He et al., "Identity Mappings in Deep Residual Networks", 2016, with group normalization.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import Norm, norm_layer


def doubled(x: Tensor, nodes: bool) -> Tensor:
    """(N, C, H, W) bilinearly to twice the steps: 2 H - 1 nodes, the old ones among them, or 2 H
    cells."""
    if nodes:
        return resized(x, (2 * x.shape[2] - 1, 2 * x.shape[3] - 1), nodes)
    return resized(x, (2 * x.shape[2], 2 * x.shape[3]), nodes)


def resized(x: Tensor, size: tuple[int, int], nodes: bool) -> Tensor:
    """(N, C, H, W) bilinearly to `size`; nodes: the outermost ones stay, else the outer edges."""
    return F.interpolate(x, size, mode="bilinear", align_corners=nodes)


class Bottleneck(nn.Module):
    """Pre-activation unit: 1x1 to `middle` channels, 3x3, 1x1 to `out`, added to the input.

    The shortcut is a 1x1 convolution of the activated input where the widths differ. stride 2
    takes every second pixel. up: None, or the grid on which the size doubles before the 3x3
    convolution (True: nodes, False: cells). inner_norm: normalize between the convolutions too.
    """

    def __init__(
        self,
        channels: int,
        middle: int,
        out: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        up: bool | None = None,
        inner_norm: bool = True,
    ) -> None:
        super().__init__()
        inner: Norm = "group" if inner_norm else "none"
        self.stride, self.up = stride, up
        # nothing in place: a normalization that is none hands on a tensor that others use
        self.enter = nn.Sequential(norm_layer("group", channels), nn.ReLU())
        self.reduce = nn.Sequential(
            nn.Conv2d(channels, middle, 1, bias=not inner_norm),
            norm_layer(inner, middle),
            nn.ReLU(),
        )
        self.conv = nn.Sequential(
            nn.Conv2d(
                middle, middle, 3, stride, padding=dilation, dilation=dilation, bias=not inner_norm
            ),
            norm_layer(inner, middle),
            nn.ReLU(),
        )
        self.expand = nn.Conv2d(middle, out, 1)
        self.shortcut = nn.Conv2d(channels, out, 1) if channels != out else None

    def forward(self, x: Tensor) -> Tensor:
        active = self.enter(x)
        skip = x if self.shortcut is None else self.shortcut(active)
        inner = self.reduce(active)
        if self.stride > 1:
            skip = skip[..., :: self.stride, :: self.stride]
        if self.up is not None:
            skip, inner = doubled(skip, self.up), doubled(inner, self.up)
        result: Tensor = skip + self.expand(self.conv(inner))
        return result


class Stem(nn.Module):
    """7x7 convolution and 3x3 maximum, both of stride 2: (N, C, H, W) to (N, width, H/4, W/4).

    nodes: result (i, j) is about pixel (4 i, 4 j), so 4 n + 1 pixels make n + 1; else about the
    middle of the cell, pixel (4 i + 2, 4 j + 2).
    """

    def __init__(self, channels: int, width: int, nodes: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, 7, 2, padding=3)
        self.nodes = nodes

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if self.nodes:
            return F.max_pool2d(x, 3, 2, padding=1)
        return F.max_pool2d(x, 3, 2, ceil_mode=True)
