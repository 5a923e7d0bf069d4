# SPDX-License-Identifier: Apache-2.0
"""The background network: what is behind the person, from what the person does not hide."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import LEAK, PartialConv2d, norm_layer
from .config import Config
from .units import resized

_KERNELS = (7, 5, 5)  # of the first levels; 3 of the others
_WIDEST = 8  # times the first level's channels


class Background(nn.Module):
    """U-Net of partial convolutions: a picture with a hole to a picture (N, 3, H, W) in [-1, 1].

    Encoder: partial convolutions of stride 2, all but the first normalized, ReLU. Decoder: features
    and masks are enlarged bilinearly, joined with the encoder's of that size, and pass a partial
    3x3 convolution, all but the last normalized, leaky ReLU; tanh at the end.

    Source: Liu et al., "Image Inpainting for Irregular Holes Using Partial Convolutions", 2018, as
    "Reposing Humans by Warping 3D Features", 2020, has it, without the leaky ReLU before tanh.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.nodes = config.grid == "node65"
        levels, base = config.background_levels, config.background_width
        channels = [3 + config.noise_channel]
        channels += [base * min(2**level, _WIDEST) for level in range(levels)]
        ratio = config.pconv_ratio
        self.down, self.down_norms = nn.ModuleList(), nn.ModuleList()
        for level in range(levels):
            kernel = _KERNELS[level] if level < len(_KERNELS) else 3
            out = channels[level + 1]
            self.down.append(PartialConv2d(channels[level], out, kernel, 2, ratio=ratio))
            self.down_norms.append(norm_layer("group" if level else "none", out))
        self.up, self.up_norms = nn.ModuleList(), nn.ModuleList()
        before = channels[-1]
        for level in reversed(range(levels)):
            out = channels[level] if level else 3
            self.up.append(PartialConv2d(before + channels[level], out, 3, ratio=ratio))
            self.up_norms.append(norm_layer("group" if level else "none", out))
            before = out

    def forward(self, image: Tensor, known: Tensor) -> Tensor:
        """image (N, 3, H, W) in [-1, 1], with noise (N, 4, H, W); known (N, 1, H, W): 1 or 0."""
        color = torch.where(known > 0, (image[:, :3] + 1) / 2, 1)
        x = torch.cat([color, image[:, 3:]], 1)
        mask = known.to(x.dtype)
        passed = [(x, mask)]
        for conv, norm in zip(self.down, self.down_norms):
            x, mask = conv(x, mask)
            x = F.relu(norm(x))
            passed.append((x, mask))
        passed.pop()
        for conv, norm in zip(self.up, self.up_norms):
            skip, skip_mask = passed.pop()
            size = (skip.shape[2], skip.shape[3])
            x, mask = resized(x, size, self.nodes), resized(mask, size, self.nodes)
            masks = torch.cat(
                [mask.to(x.dtype).expand_as(x), skip_mask.to(x.dtype).expand_as(skip)], 1
            )
            x, mask = conv(torch.cat([x, skip.to(x.dtype)], 1), masks)
            x = norm(x)
            if passed:
                x = F.leaky_relu(x, LEAK)
        return torch.tanh(x)
