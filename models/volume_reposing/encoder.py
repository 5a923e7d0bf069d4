# SPDX-License-Identifier: Apache-2.0
"""From a picture to a volume of features, and from heatmaps to features of the pose."""

from __future__ import annotations

from torch import Tensor, nn

from ..layers import VolumeResidualBlock, norm_layer
from .config import Config
from .units import Bottleneck, Stem

JOINTS = 19


class PictureEncoder(nn.Module):
    """E_2D: (N, 3, H, W) to (N, C, H/4, W/4), the front of a ResNet-50.

    A stem and two blocks of bottleneck units, the second with dilation 2 in place of a stride.

    Source: Knoche, Sárándi, Leibe, "Reposing Humans by Warping 3D Features", 2020, sec. 3.1, and
    its published code.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        before, *widths = config.encoder_widths
        layers: list[nn.Module] = [Stem(3, before, config.grid == "node65")]
        for width, count, dilation in zip(widths, config.encoder_units, (1, 2)):
            for _ in range(count):
                layers.append(Bottleneck(before, width // 4, width, dilation=dilation))
                before = width
        self.layers = nn.Sequential(*layers)

    def forward(self, image: Tensor) -> Tensor:
        features: Tensor = self.layers(image)
        return features


class Lift(nn.Module):
    """(N, channels, H, W) to (N, features, D, H, W): a convolution has each depth's features, one
    depth after the other, among its channels."""

    def __init__(self, channels: int, depth: int, features: int) -> None:
        super().__init__()
        self.depth = depth
        self.layers = nn.Sequential(
            norm_layer("group", channels),
            nn.ReLU(),
            nn.Conv2d(channels, depth * features, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).unflatten(1, (self.depth, -1)).transpose(1, 2).contiguous()


class PoseEncoder(nn.Module):
    """E_pose: heatmaps (N, 19, D, H, W) to (N, width, D, H, W), a convolution, residual units."""

    def __init__(self, width: int, units: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv3d(JOINTS, width, 3, padding=1),
            *(VolumeResidualBlock(width) for _ in range(units)),
        )

    def forward(self, heat: Tensor) -> Tensor:
        features: Tensor = self.layers(heat)
        return features
