# SPDX-License-Identifier: Apache-2.0
"""Losses: scalars that are means over the pictures of a batch, so a split batch adds up.

Masked losses of a picture with an empty mask are 0 with zero gradient. Norms have the gradient 0
at 0. Half types, and everything under autocast, are reduced in float32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .features import Features

LAYERS = ("relu1_2", "relu2_2", "relu3_2", "relu4_2", "relu5_2")


def l1(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute difference.

    Raises ValueError when the shapes differ.
    """
    _same_shape("a", a, "b", b)
    return (_wide(a) - _wide(b)).abs().mean()


def masked_l1(a: Tensor, b: Tensor, mask: Tensor) -> Tensor:
    """Mean over the pictures of sum(mask |a - b|) / sum(mask), the latter over all channels too.

    a, b: (N, ...). mask: floating or bool, broadcast against them, e.g. (N, 1, H, W) against
    (N, 3, H, W). What lies outside the mask may be anything, also NaN.

    Raises ValueError when the shapes do not fit.
    """
    _same_shape("a", a, "b", b)
    mask = _spread(mask, a)
    difference = torch.where(mask > 0, _wide(a) - _wide(b), 0)
    total = (difference.abs() * mask).flatten(1).sum(1)
    return (total / _at_least(mask.flatten(1).sum(1))).mean()


def epe(flow: Tensor, truth: Tensor, mask: Tensor, norm: Literal["l2", "l1"] = "l2") -> Tensor:
    """End-point error in the unit of the flow: the mean over the pictures of the masked mean.

    flow, truth: (N, 2, H, W). mask: (N, H, W) or (N, 1, H, W), bool or floating. norm: of the
    difference vector at a pixel.

    Source: "Dense Intrinsic Appearance Flow for Human Pose Transfer", 2019.

    Raises ValueError when the shapes do not fit.
    """
    _same_shape("flow", flow, "truth", truth)
    mask = _spread(mask[:, None] if mask.dim() == 3 else mask, flow[:, :1])
    difference = torch.where(mask > 0, _wide(flow) - _wide(truth), 0)
    length = torch.linalg.vector_norm(difference, ord=_order(norm), dim=1, keepdim=True)
    total = (length * mask).flatten(1).sum(1)
    return (total / _at_least(mask.flatten(1).sum(1))).mean()


def multi_scale_flow(
    pyramid: Sequence[Tensor],
    flow: Tensor,
    mask: Tensor,
    *,
    scale: float = 0.05,
    weights: Sequence[float] | None = None,
    norm: Literal["l2", "l1"] = "l2",
    masked: bool = False,
) -> Tensor:
    """Weighted end-point errors of flows at several sizes, finest first.

    A level of H/k x W/k is compared with the mean of `scale` times the flow over k x k pixels, on
    the cells that hold a pixel of the mask. The unit is not changed from level to level.

    pyramid: (N, 2, H/k, W/k) each. flow: (N, 2, H, W) pixels. mask: (N, H, W) or (N, 1, H, W).
    weights: of the levels; None is 0.32, 0.16, 0.08, ... masked: take the mean over the mask's
    pixels only, where the published loss averages in zeros at the silhouette.

    Source: "Dense Intrinsic Appearance Flow for Human Pose Transfer", 2019.

    Raises ValueError when the shapes do not fit.
    """
    if weights is None:
        weights = [0.32 / 2**level for level in range(len(pyramid))]
    if len(weights) != len(pyramid) or not pyramid:
        raise ValueError(f"weights must be one per level, got {len(weights)} for {len(pyramid)}")
    mask = _spread(mask[:, None] if mask.dim() == 3 else mask, flow[:, :1])
    on_mask = torch.where(mask > 0, _wide(flow) * scale, 0) * mask
    total = flow.new_zeros((), dtype=mask.dtype)
    for weight, level in zip(weights, pyramid):
        k = flow.shape[-1] // level.shape[-1]
        if flow.shape[-2:] != (k * level.shape[-2], k * level.shape[-1]):
            raise ValueError(
                f"a level of the pyramid must divide the flow's {tuple(flow.shape[-2:])}, "
                f"got {tuple(level.shape[-2:])}"
            )
        mean = F.avg_pool2d(on_mask, k)
        if masked:
            mean = mean / _at_least(F.avg_pool2d(mask, k))
        total = total + weight * epe(level, mean, F.max_pool2d(mask, k), norm)
    return total


def lsgan_generator(fake: Tensor) -> Tensor:
    """1/2 mean (D(fake) - 1)^2. Source: Mao et al., "Least Squares GAN", 2017, eq. 9."""
    return 0.5 * (_wide(fake) - 1).square().mean()


def lsgan_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """1/2 mean (D(real) - 1)^2 + 1/2 mean D(fake)^2; the fake picture is to be detached."""
    return 0.5 * (_wide(real) - 1).square().mean() + 0.5 * _wide(fake).square().mean()


def bce_generator(fake: Tensor) -> Tensor:
    """Non-saturating logistic loss -mean log sigmoid(D(fake)); fake: logits."""
    return F.softplus(-_wide(fake)).mean()


def bce_discriminator(real: Tensor, fake: Tensor, *, real_target: float = 1.0) -> Tensor:
    """Half the sum of the cross entropies of logits with `real_target` and with 0.

    real_target: below 1 smooths the labels, of the real pictures only (Salimans et al., "Improved
    Techniques for Training GANs", 2016).
    """
    real, fake = _wide(real), _wide(fake)
    target = torch.full_like(real, real_target)
    on_real = F.binary_cross_entropy_with_logits(real, target)
    return 0.5 * on_real + 0.5 * F.softplus(fake).mean()


def gram(x: Tensor, norm: Literal["chw", "none"] = "chw") -> Tensor:
    """Gram matrices (N, C, C) of features (N, C, H, W), in float32 or float64.

    norm: "chw" divides by C H W.
    """
    return _products(x, x, norm)


def shifted_gram(x: Tensor, dx: int, dy: int, norm: Literal["chw", "none"] = "chw") -> Tensor:
    """Products (N, C, C) of features with themselves dx columns and dy rows away; not symmetric.

    Entry (i, j) is the sum over (x, y) of channel i at (x + dx, y + dy) times channel j at (x, y),
    over the positions where both exist. norm: "chw" divides by C H W of the whole map.

    Source: Berger and Memisevic, "Incorporating Long-Range Consistency in CNN-based Texture
    Generation", 2017, as "Dense Intrinsic Appearance Flow for Human Pose Transfer" uses it.

    Raises ValueError when a shift is negative or does not fit into the map.
    """
    height, width = x.shape[-2:]
    if not (0 <= dx < width and 0 <= dy < height):
        raise ValueError(f"shifts must be in [0, {width}) and [0, {height}), got {dx} and {dy}")
    return _products(x[..., dy:, dx:], x[..., : height - dy, : width - dx], norm, x[0].numel())


class Perceptual(nn.Module):
    """Distance of features, summed over layers, mean over pictures.

    criterion: per picture and layer, over its C H W entries, rms (root of the mean square, the
    unsquared norm made independent of size), mse (mean square) or l1 (mean absolute). weights: of
    the layers, default 1 each. Called on pictures (N, 3, H, W) in [-1, 1]; the truth's features
    get no gradient.

    Source: Chen and Koltun, "Photographic Image Synthesis with Cascaded Refinement Networks",
    2017.

    Raises ValueError for unknown layers or criteria.
    """

    def __init__(
        self,
        features: Features,
        layers: Sequence[str] = LAYERS,
        weights: Sequence[float] | None = None,
        criterion: Literal["rms", "mse", "l1"] = "rms",
    ) -> None:
        super().__init__()
        if criterion not in ("rms", "mse", "l1"):
            raise ValueError(f"criterion must be rms, mse or l1, got {criterion!r}")
        self.features, self.layers, self.criterion = features, tuple(layers), criterion
        self.weights = _layer_weights(features, self.layers, weights)

    def forward(self, generated: Tensor, truth: Tensor) -> Tensor:
        return _compared(self.features, {"loss": self}, generated, truth)["loss"]

    def compare(self, generated: Mapping[str, Tensor], truth: Mapping[str, Tensor]) -> Tensor:
        """The loss of features (N, C, h, w) by layer, as `Features` gives them."""
        terms = [
            weight * self._distance(_wide(generated[layer]) - _wide(truth[layer]))
            for layer, weight in self.weights.items()
        ]
        return torch.stack(terms).sum()

    def _distance(self, difference: Tensor) -> Tensor:
        entries = difference.flatten(1)
        if self.criterion == "rms":
            return torch.linalg.vector_norm(entries, dim=1).mean() / entries.shape[1] ** 0.5
        return (entries.abs() if self.criterion == "l1" else entries.square()).mean()


class Style(nn.Module):
    """Frobenius norm (not squared) of the difference of Gram matrices, summed over layers.

    norm: "chw" divides the Gram matrices by C H W, "none" does not. Mean over pictures (N, 3, H, W)
    in [-1, 1]; the truth's features get no gradient.

    Source: Gatys et al., "Image Style Transfer Using Convolutional Neural Networks", 2016; the
    unsquared norm: "Dense Pose Transfer", 2018, eq. 2.

    Raises ValueError for unknown layers or norms.
    """

    def __init__(
        self,
        features: Features,
        layers: Sequence[str] = LAYERS,
        norm: Literal["chw", "none"] = "chw",
        weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        _check_norm(norm)
        self.features, self.layers, self.norm = features, tuple(layers), norm
        self.weights = _layer_weights(features, self.layers, weights)

    def forward(self, generated: Tensor, truth: Tensor) -> Tensor:
        return _compared(self.features, {"loss": self}, generated, truth)["loss"]

    def compare(self, generated: Mapping[str, Tensor], truth: Mapping[str, Tensor]) -> Tensor:
        """The loss of features (N, C, h, w) by layer, as `Features` gives them."""
        terms = []
        for layer, weight in self.weights.items():
            difference = gram(generated[layer], self.norm) - gram(truth[layer], self.norm)
            length = torch.linalg.vector_norm(difference.flatten(1), dim=1)
            terms.append(weight * length.mean())
        return torch.stack(terms).sum()


class FeatureLosses(nn.Module):
    """Several losses on the same features, which run once per picture.

    >>> from models.features import vgg19
    >>> features = vgg19(width_mult=0.1)
    >>> losses = FeatureLosses(
    ...     features, perceptual=Perceptual(features), style=Style(features, ("relu1_1",))
    ... )
    >>> picture = torch.zeros(1, 3, 32, 32)
    >>> {name: float(loss) for name, loss in losses(picture, picture).items()}
    {'perceptual': 0.0, 'style': 0.0}

    Raises ValueError when a term has other features.
    """

    def __init__(self, features: Features, **terms: Perceptual | Style) -> None:
        super().__init__()
        for name, term in terms.items():
            if term.features is not features:
                raise ValueError(f"{name} must be made with the same features as the others")
        # not registered as a part: the features, and what a system keeps of its own, would appear
        # more than once in every listing
        self.features = features
        self._terms = dict(terms)

    def forward(self, generated: Tensor, truth: Tensor) -> dict[str, Tensor]:
        """Named losses of pictures (N, 3, H, W) in [-1, 1]; no gradient flows to the truth."""
        return _compared(self.features, self._terms, generated, truth)


def _compared(
    features: Features,
    terms: Mapping[str, Perceptual | Style],
    generated: Tensor,
    truth: Tensor,
) -> dict[str, Tensor]:
    _same_shape("generated", generated, "truth", truth)
    layers = {layer for term in terms.values() for layer in term.layers}
    found = features(generated, layers)
    with torch.no_grad():
        wanted = features(truth, layers)
    return {name: term.compare(found, wanted) for name, term in terms.items()}


def _products(a: Tensor, b: Tensor, norm: str, count: int | None = None) -> Tensor:
    """A B^T of (N, C, H, W), outside of autocast: sums over H W overflow half types."""
    _check_norm(norm)
    with torch.autocast(a.device.type, enabled=False):
        product = _wide(a).flatten(2) @ _wide(b).flatten(2).transpose(1, 2)
    return product / (count or a[0].numel()) if norm == "chw" else product


def _layer_weights(
    features: Features, layers: tuple[str, ...], weights: Sequence[float] | None
) -> dict[str, float]:
    features.check(layers)
    weights = [1.0] * len(layers) if weights is None else weights
    if len(weights) != len(layers) or not layers:
        raise ValueError(f"weights must be one per layer, got {len(weights)} for {len(layers)}")
    return dict(zip(layers, map(float, weights)))


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _spread(mask: Tensor, like: Tensor) -> Tensor:
    try:
        return mask.to(_wide(like[:0]).dtype).expand(like.shape)
    except RuntimeError:
        raise ValueError(
            f"mask must fit {tuple(like.shape)} by broadcasting, got {tuple(mask.shape)}"
        ) from None


def _at_least(sums: Tensor) -> Tensor:
    """A divisor: an empty mask gives 0 / 1e-8."""
    return sums.clamp(min=1e-8)


def _order(norm: str) -> int:
    if norm not in ("l2", "l1"):
        raise ValueError(f"norm must be l2 or l1, got {norm!r}")
    return int(norm[1])


def _check_norm(norm: str) -> None:
    if norm not in ("chw", "none"):
        raise ValueError(f"norm must be chw or none, got {norm!r}")


def _same_shape(a_name: str, a: Tensor, b_name: str, b: Tensor) -> None:
    if a.shape != b.shape:
        raise ValueError(
            f"{a_name} and {b_name} must have one shape, got {tuple(a.shape)} and {tuple(b.shape)}"
        )
