# SPDX-License-Identifier: Apache-2.0
"""From a volume of features back to the person's picture and outline."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..layers import norm_layer
from .units import Bottleneck

# Width in shares of the first unit's, whether the size doubles, of the six units.
_UNITS = ((1, False), (1, False), (2, True), (2, False), (2, False), (4, True))


class ProjectionDecoder(nn.Module):
    """D_2D: (N, C, D, H, W) to the person (N, 3, 4 H, 4 W) in [-1, 1] and its mask in [0, 1].

    The depths become channels, one after the other. Six bottleneck units without inner
    normalization, two of which double the size, then a 3x3 convolution to tanh and sigmoid. nodes:
    n + 1 nodes become 4 n + 1.

    Source: "Reposing Humans by Warping 3D Features", 2020, sec. 3.1, and its published code.
    """

    def __init__(self, channels: int, width: int, nodes: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for share, up in _UNITS:
            out = width // share
            layers.append(
                Bottleneck(channels, out // 4, out, up=nodes if up else None, inner_norm=False)
            )
            channels = out
        self.units = nn.Sequential(*layers)
        self.head = nn.Sequential(
            norm_layer("group", channels), nn.ReLU(), nn.Conv2d(channels, 4, 3, padding=1)
        )

    def forward(self, volume: Tensor) -> tuple[Tensor, Tensor]:
        planes = self.head(self.units(volume.transpose(1, 2).flatten(1, 2)))
        return torch.tanh(planes[:, :3]), torch.sigmoid(planes[:, 3:])
