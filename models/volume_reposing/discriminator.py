# SPDX-License-Identifier: Apache-2.0
"""The discriminator: does a picture show the source's person in the target's pose?"""

from __future__ import annotations

from torch import Tensor, nn

from ..layers import norm_layer
from .config import Config
from .encoder import JOINTS
from .units import Bottleneck, Stem


class Discriminator(nn.Module):
    """(N, 6 + 19 B, H, W), two pictures and heatmaps of B depths, to logits (N,).

    A ResNet-50 of which the last block is left out: each block ends with a stride of 2. The map of
    scores is averaged over the picture; with d_reduce="batch" over the batch too, shape (1,).

    Source: "Reposing Humans by Warping 3D Features", 2020, sec. 3.4, and its published code.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.whole_batch = config.d_reduce == "batch"
        before, *widths = config.disc_widths
        layers: list[nn.Module] = [Stem(6 + JOINTS * config.disc_depth_bins, before, True)]
        for width, count in zip(widths, config.disc_units):
            for unit in range(count):
                stride = 2 if unit == count - 1 else 1
                layers.append(Bottleneck(before, width // 4, width, stride=stride))
                before = width
        layers += [norm_layer("group", before), nn.ReLU(), nn.Conv2d(before, 1, 3, padding=1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        score: Tensor = self.layers(x).float().mean((1, 2, 3))
        return score.mean(0, keepdim=True) if self.whole_batch else score
