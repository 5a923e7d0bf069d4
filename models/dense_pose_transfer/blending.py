# SPDX-License-Identifier: Apache-2.0
"""The blending module: what to add to the predicted picture, given the warped one."""

from __future__ import annotations

from torch import Tensor, nn

from ..layers import Norm, ResidualBlock, conv_block


class Blending(nn.Module):
    """(N, channels, H, W) -> a residual (N, 3, H, W) of the predicted picture, at full size.

    Two 3x3 convolutions and `blocks` residual blocks between them. The last convolution starts at
    0, so that training starts at the predicted picture.

    Source: Neverova, Güler, Kokkinos, "Dense Pose Transfer", ECCV 2018, sec. 3.3.
    """

    def __init__(
        self, channels: int, width: int = 64, blocks: int = 3, norm: Norm = "instance"
    ) -> None:
        super().__init__()
        last = nn.Conv2d(width, 3, 3, padding=1, padding_mode="reflect")
        nn.init.zeros_(last.weight)
        assert last.bias is not None
        nn.init.zeros_(last.bias)
        self.layers = nn.Sequential(
            conv_block(channels, width, norm=norm),
            *(ResidualBlock(width, norm) for _ in range(blocks)),
            last,
        )

    def forward(self, x: Tensor) -> Tensor:
        residual: Tensor = self.layers(x)
        return residual
