# SPDX-License-Identifier: Apache-2.0
"""The predictive module: from the source picture and the poses straight to a picture."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..layers import ResidualBlock, conv_block, up_block


class Predictive(nn.Module):
    """Encoder, residual blocks, decoder: (N, channels, H, W) -> (N, 3, H, W) in [-1, 1].

    3x3 convolutions with instance normalization and ReLU: width - 2 width - 4 width channels at
    1, 1/2, 1/4 of the size, `blocks` residual blocks, and back; the last layer is a tanh without
    normalization. H and W must be multiples of 4.

    Source: Neverova, Güler, Kokkinos, "Dense Pose Transfer", ECCV 2018, sec. 3.1.
    """

    def __init__(self, channels: int, width: int = 64, blocks: int = 6) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            conv_block(channels, width),
            conv_block(width, 2 * width, stride=2),
            conv_block(2 * width, 4 * width, stride=2),
            *(ResidualBlock(4 * width) for _ in range(blocks)),
            up_block(4 * width, 2 * width),
            up_block(2 * width, width),
            nn.Conv2d(width, 3, 3, padding=1, padding_mode="reflect"),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = torch.tanh(self.layers(x))
        return out
