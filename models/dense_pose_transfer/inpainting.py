# SPDX-License-Identifier: Apache-2.0
"""The inpainting module: 24 autoencoders, one per part, that share a code of the whole person.

The parts run side by side as groups of one convolution. Channel counts below are of one part.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..layers import conv_block, up_block
from .config import Config
from .pose import PARTS

# Channels, in units of the first layer's, after each layer but the decoder's last.
_ENCODER = {6: (1, 2, 4, 4, 8, 8), 4: (1, 2, 4, 8)}
_DECODER = {6: (8, 8, 4, 2, 1), 4: (4, 2, 1)}


class Inpainting(nn.Module):
    """From the texture that the source shows to one that covers the body.

    Encoder of a part: 4x4 convolutions of stride 2 over (color, mask), each but the last with
    normalization and ReLU. The codes of all parts, concatenated, pass Linear - LayerNorm - ReLU -
    Linear - LayerNorm - ReLU and make the shared code, which is appended to each part's own.
    Decoder: transposed 4x4 convolutions of stride 2 back to three channels, tanh.

    Source: Neverova, Güler, Kokkinos, "Dense Pose Transfer", ECCV 2018, sec. 3.2, with the layer
    sizes of `Config`, which the paper leaves to its supplement.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        width = config.inpaint_width
        widths = [width * step for step in _ENCODER[config.inpaint_levels]]
        shared = config.global_code if config.inpaint_global else 0
        self.side = config.tile_size // 2**config.inpaint_levels

        self.encoders = nn.Sequential()
        for before, after in zip([4, *widths[:-1]], widths):
            plain = len(self.encoders) == len(widths) - 1  # the code itself
            self.encoders.append(
                conv_block(
                    PARTS * before,
                    PARTS * after,
                    4,
                    2,
                    norm="none" if plain else config.inpaint_norm,
                    activation="none" if plain else "relu",
                    padding="zeros",
                    groups=PARTS,
                )
            )
        self.fusion: nn.Sequential | None = None
        if shared:
            self.fusion = nn.Sequential(
                nn.Linear(PARTS * widths[-1] * self.side**2, shared),
                nn.LayerNorm(shared),
                nn.ReLU(),
                nn.Linear(shared, shared),
                nn.LayerNorm(shared),
                nn.ReLU(),
            )
        self.decoders = nn.Sequential()
        rising = [width * step for step in _DECODER[config.inpaint_levels]]
        for before, after in zip([widths[-1] + shared, *rising], [*rising, 3]):
            plain = len(self.decoders) == len(rising)  # the colors
            self.decoders.append(
                up_block(
                    PARTS * before,
                    PARTS * after,
                    4,
                    norm="none" if plain else config.inpaint_norm,
                    activation="tanh" if plain else "relu",
                    groups=PARTS,
                )
            )

    def forward(self, texture: Tensor, mask: Tensor) -> Tensor:
        """texture (N, 24, 3, S, S), 0 where unknown; mask (N, 24, 1, S, S) -> (N, 24, 3, S, S)."""
        N = texture.shape[0]
        own = self.encoders(torch.cat([texture, mask], 2).flatten(1, 2))
        if self.fusion is not None:
            code = self.fusion(own.flatten(1))
            spread = code[:, None, :, None, None].expand(-1, PARTS, -1, self.side, self.side)
            own = torch.cat([own.unflatten(1, (PARTS, -1)), spread.to(own.dtype)], 2).flatten(1, 2)
        return self.decoders(own).reshape(N, PARTS, 3, *texture.shape[-2:])


def inpainting_loss(predicted: Tensor, textures: Tensor, masks: Tensor) -> Tensor:
    """Mean over the pictures, and over each one's views, of the l1 distance where the view shows
    the surface. A view that shows nothing does not count.

    Args:
        predicted: (N, 24, 3, S, S).
        textures: (N, K, 24, 3, S, S), what K pictures of the person show.
        masks: (N, K, 24, 1, S, S), where they show it.

    Source: "Dense Pose Transfer", sec. 3.2 and Fig. 2.
    """
    masks = masks.float()
    difference = (predicted.float()[:, None] - textures.float()).abs() * masks
    shown = masks.flatten(2).sum(2)  # (N, K)
    each = difference.flatten(2).sum(2) / (3 * shown).clamp(min=1)
    return (each.sum(1) / (shown > 0).sum(1).clamp(min=1)).mean()
