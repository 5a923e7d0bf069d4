# SPDX-License-Identifier: Apache-2.0
"""Building blocks that more than one system has: normed convolutions, residual units, PatchGAN.

Instance normalization has neither affine parameters nor running statistics. A bias right before
instance or batch normalization has no effect and gets no gradient, so by default there is none;
`bias=True` gives the parameter counts of systems that were published with one.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Norm = Literal["instance", "batch", "group", "none"]
Activation = Literal["relu", "leaky", "tanh", "sigmoid", "none"]
Padding = Literal["reflect", "zeros"]

LEAK = 0.2  # negative slope of "leaky"


def norm_layer(norm: Norm, channels: int, dimensions: int = 2) -> nn.Module:
    """The normalization of (N, channels, H, W), or of (N, channels, D, H, W) for 3 dimensions.

    "group" has 32 groups, one where there are fewer than 32 channels, and for other numbers of
    channels the greatest divisor that they share with 32.

    Raises ValueError for an unknown name.
    """
    if norm == "instance":
        return (nn.InstanceNorm2d if dimensions == 2 else nn.InstanceNorm3d)(channels)
    if norm == "batch":
        return (nn.BatchNorm2d if dimensions == 2 else nn.BatchNorm3d)(channels)
    if norm == "group":
        return nn.GroupNorm(1 if channels < 32 else math.gcd(32, channels), channels)
    if norm == "none":
        return nn.Identity()
    raise ValueError(f"norm must be instance, batch, group or none, got {norm!r}")


def activation_layer(activation: Activation) -> nn.Module:
    """Raises ValueError for an unknown name."""
    if activation == "relu":
        return nn.ReLU(inplace=True)
    if activation == "leaky":
        return nn.LeakyReLU(LEAK, inplace=True)
    if activation == "tanh":
        return nn.Tanh()
    if activation == "sigmoid":
        return nn.Sigmoid()
    if activation == "none":
        return nn.Identity()
    raise ValueError(f"activation must be relu, leaky, tanh, sigmoid or none, got {activation!r}")


def conv_block(
    channels: int,
    out_channels: int,
    kernel: int = 3,
    stride: int = 1,
    *,
    norm: Norm = "instance",
    activation: Activation = "relu",
    padding: Padding = "reflect",
    bias: bool | None = None,
    groups: int = 1,
) -> nn.Sequential:
    """Convolution, normalization, activation; (N, C, H, W) to (N, C', ceil(H / stride), ...).

    An even kernel with stride 2 halves the size. bias: None gives one unless the normalization
    cancels it.
    """
    conv = nn.Conv2d(
        channels,
        out_channels,
        kernel,
        stride,
        padding=(kernel - 1) // 2,
        bias=_bias(bias, norm),
        padding_mode=padding,
        groups=groups,
    )
    return _block(conv, out_channels, norm, activation)


def up_block(
    channels: int,
    out_channels: int,
    kernel: int = 3,
    *,
    norm: Norm = "instance",
    activation: Activation = "relu",
    bias: bool | None = None,
    groups: int = 1,
) -> nn.Sequential:
    """Transposed convolution of stride 2, normalization, activation: exactly doubles H and W."""
    conv = nn.ConvTranspose2d(
        channels,
        out_channels,
        kernel,
        2,
        padding=(kernel - 1) // 2,
        output_padding=kernel % 2,
        bias=_bias(bias, norm),
        groups=groups,
    )
    return _block(conv, out_channels, norm, activation)


class ResidualBlock(nn.Module):
    """x + norm(conv3(relu(norm(conv3(x))))).

    Source: Johnson et al., "Perceptual Losses for Real-Time Style Transfer and Super-Resolution",
    2016, with padding instead of the cut border.
    """

    def __init__(
        self,
        channels: int,
        norm: Norm = "instance",
        padding: Padding = "reflect",
        bias: bool | None = None,
    ) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *conv_block(channels, channels, norm=norm, padding=padding, bias=bias),
            *conv_block(
                channels, channels, norm=norm, activation="none", padding=padding, bias=bias
            ),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class VolumeResidualBlock(nn.Module):
    """x + conv3(relu(norm(conv3(relu(norm(x)))))) on volumes (N, C, D, H, W), zero padding.

    Source: the pre-activation unit of He et al., "Identity Mappings in Deep Residual Networks",
    2016, as "Reposing Humans by Warping 3D Features" has it, with 32 groups.
    """

    def __init__(self, channels: int, norm: Norm = "group") -> None:
        super().__init__()
        self.body = nn.Sequential(
            norm_layer(norm, channels, 3),
            nn.ReLU(),  # not in place: a norm of "none" would hand it the input of the sum
            nn.Conv3d(channels, channels, 3, padding=1, bias=_bias(None, norm)),
            norm_layer(norm, channels, 3),
            nn.ReLU(),
            nn.Conv3d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class PatchGAN(nn.Module):
    """Discriminator of 70 x 70 pixel patches: (N, C, H, W) to scores (N, 1, H/8 - 2, W/8 - 2).

    A picture of 256 x 256 gives 30 x 30 scores; they are logits, without a sigmoid. Widths are
    base, 2, 4 and 8 times base; 4 x 4 kernels, zero padding, leaky ReLU of slope 0.2; neither the
    first nor the last layer is normed.

    Raises ValueError for pictures with a side below 24.

    Source: Isola et al., "Image-to-Image Translation with Conditional Adversarial Networks", 2017.
    """

    def __init__(
        self,
        in_channels: int,
        base: int = 64,
        norm: Norm = "instance",
        bias: bool | None = None,
    ) -> None:
        super().__init__()
        layers = [
            nn.Conv2d(in_channels, base, 4, 2, padding=1),
            activation_layer("leaky"),
        ]
        width = base
        for stride in (2, 2, 1):
            layers += conv_block(
                width,
                2 * width,
                4,
                stride,
                norm=norm,
                activation="leaky",
                padding="zeros",
                bias=bias,
            )
            width *= 2
        self.body = nn.Sequential(*layers, nn.Conv2d(width, 1, 4, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        if min(x.shape[-2:]) < 24:
            raise ValueError(
                f"PatchGAN needs pictures of at least 24 x 24 pixels, got {tuple(x.shape[-2:])}"
            )
        return self.body(x)


class PartialConv2d(nn.Module):
    """Convolution over the known pixels only; more of them are known in its result.

    With n the number of known values in a window of C k^2 and m' = min(n, 1):

        y = (W * (x m) C k^2 / n + b) m'

    Padding counts as unknown. ratio "ksq" has k^2 / n in place of C k^2 / n, with n counted over
    the channels of the mask as it is given; for a mask of one channel the two are the same.

    Source: Liu et al., "Image Inpainting for Irregular Holes Using Partial Convolutions", 2018.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int,
        kernel: int = 3,
        stride: int = 1,
        *,
        bias: bool = True,
        ratio: Literal["nvidia", "ksq"] = "nvidia",
    ) -> None:
        super().__init__()
        if ratio not in ("nvidia", "ksq"):
            raise ValueError(f"ratio must be nvidia or ksq, got {ratio!r}")
        self.conv = nn.Conv2d(
            channels, out_channels, kernel, stride, padding=kernel // 2, bias=False
        )
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.ratio = ratio

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """x (N, C, H, W); mask (N, 1 or C, H, W), 1 = known, 0 = hole, without gradient.

        Returns y (N, C', H', W') and its mask (N, 1, H', W').

        Raises ValueError when the mask does not fit.
        """
        if mask.shape not in (x.shape, (x.shape[0], 1, *x.shape[2:])):
            raise ValueError(
                f"mask must be (N, 1 or C, H, W) for x {tuple(x.shape)}, got {tuple(mask.shape)}"
            )
        conv = self.conv
        mask = mask.detach().to(x.dtype)
        with torch.no_grad():
            # sums over windows; of pooling autocast keeps the hands off, so that they are exact
            count = F.avg_pool2d(
                mask.float().sum(1, keepdim=True),
                conv.kernel_size,
                conv.stride,
                [side // 2 for side in conv.kernel_size],
                divisor_override=1,
            )
            window = float(math.prod(conv.kernel_size))
            if self.ratio == "nvidia":
                window *= mask.shape[1]  # a mask of one channel stands for all of them
            known = count.clamp(0, 1)
            scale = (window / (count + 1e-8) * known).to(x.dtype)
        y = conv(x * mask) * scale
        if self.bias is not None:
            y = y + self.bias.view(-1, 1, 1)
        known = known.to(y.dtype)
        return y * known, known


def adaptive_instance_norm(x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """scale (x - mean) / sqrt(variance + 1e-5) + bias, per picture and channel.

    x: (N, C, H, W); the variance is the biased one over H, W, and is taken in float32 for half
    types. scale, bias: (N, C), used as they are.

    Source: Huang and Belongie, "Arbitrary Style Transfer in Real-Time with Adaptive Instance
    Normalization", 2017, eq. 8.
    """
    values = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    variance, mean = torch.var_mean(values, dim=(2, 3), correction=0, keepdim=True)
    normed = (values - mean) * (variance + 1e-5).rsqrt()
    return (scale[..., None, None] * normed + bias[..., None, None]).to(x.dtype)


def init_weights(
    module: nn.Module, scheme: Literal["normal", "he"] = "normal", slope: float = 0.0
) -> None:
    """Draw the weights of all convolutions and linear layers anew, in place.

    normal: N(0, 0.02^2), as pix2pix. he: N(0, 2 / ((1 + slope^2) fan_in)), slope that of the leaky
    ReLU that follows. In both, affine weights of normalizations are N(1, 0.02^2) and every bias 0.
    Frozen parameters stay as they are. Uses PyTorch's global generator.

    Source of he: He et al., "Delving Deep into Rectifiers", 2015, eq. 15.

    Raises ValueError for an unknown scheme.
    """
    if scheme not in ("normal", "he"):
        raise ValueError(f"scheme must be normal or he, got {scheme!r}")
    for layer in module.modules():
        bias = getattr(layer, "bias", None)
        if isinstance(bias, nn.Parameter) and bias.requires_grad:
            nn.init.zeros_(bias)
        weight = getattr(layer, "weight", None)
        if not isinstance(weight, nn.Parameter) or not weight.requires_grad:
            continue
        if weight.dim() == 1:
            nn.init.normal_(weight, 1.0, 0.02)
        elif scheme == "normal":
            nn.init.normal_(weight, 0.0, 0.02)
        else:
            nn.init.normal_(weight, 0.0, math.sqrt(2 / ((1 + slope**2) * _fan_in(layer, weight))))


def _fan_in(layer: nn.Module, weight: Tensor) -> float:
    """How many values a result is the sum of."""
    if isinstance(layer, (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
        # (in, out / groups, k, k): all inputs of the group, and the share of the kernel that
        # falls on one position of the result
        reach = math.prod(weight.shape[2:]) / math.prod(layer.stride)
        return weight.shape[0] / layer.groups * reach
    return weight[0].numel()


def _bias(bias: bool | None, norm: Norm) -> bool:
    return norm not in ("instance", "batch") if bias is None else bias


def _block(conv: nn.Module, channels: int, norm: Norm, activation: Activation) -> nn.Sequential:
    layers = [conv, norm_layer(norm, channels), activation_layer(activation)]
    return nn.Sequential(*(layer for layer in layers if not isinstance(layer, nn.Identity)))
