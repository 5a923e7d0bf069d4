# SPDX-License-Identifier: Apache-2.0
"""Every choice of the system; the defaults are the published one.

What this implementation does otherwise than the published code, unless told, is marked (ours). A
rotation that the published code may fit as a reflection is always a proper one here, since
`pose_kernels.helmert_fit` has no other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..config import Settings, option

Warp = Literal["3d", "2d", "none"]
GridKind = Literal["node65", "cell64"]
VGGMode = Literal["caffe", "caffe_legacy_means", "torch"]
Loss = Literal["l1", "perceptual", "gan"]

_AT_LEAST_1 = (
    "depth",
    "features",
    "pose_features",
    "volume_units",
    "decoder_width",
    "background_width",
    "background_levels",
    "disc_depth_bins",
    "train_steps",
)
_NOT_NEGATIVE = ("weight_reg", "adversarial_weight", "perceptual_weight", "l1_weight")


def _tiny(value: object) -> dict[str, object]:
    return {"tiny": value}


@dataclass(frozen=True)
class Config(Settings):
    """Reposing Humans by Warping 3D Features: see `system.VolumeReposing`."""

    warp: Warp = option(
        "3d",
        "how features go to the target's pose: 3d, by part in space; 2d, by part in the picture's "
        "plane; none, not at all, as a control",
    )
    pose: Literal["3d", "2d"] = option(
        "3d", "the target's pose as heatmaps in space, or 2d: their maximum over the depth"
    )
    warp2d_interp: Literal["bilinear", "nearest"] = option(
        "bilinear", "how warp 2d samples; the published code takes the nearest voxel (ours)"
    )
    grid: GridKind = option(
        "node65",
        "node65: voxels at every fourth pixel, both ends included, 65 x 65 x 33 for 256 pixels; "
        "cell64: voxels in the middle of cells, 64 x 64 x 32 (ours)",
    )
    legacy_crop: bool = option(
        False,
        "node65: cut the result's first row and column, as published, which moves it by a pixel; "
        "else the last ones (ours)",
    )

    depth: int = option(32, "steps of the volume along z", preset=_tiny(8))
    features: int = option(64, "channels of the volume", preset=_tiny(16))
    pose_features: int = option(32, "channels of the encoded pose", preset=_tiny(16))
    pose_sigma: float = option(
        6.0, "of the heatmaps, in pixels at a height of 256", preset=_tiny(24.0)
    )
    volume_units: int = option(3, "residual units in each network on volumes", preset=_tiny(1))
    encoder_widths: tuple[int, ...] = option(
        (64, 256, 512),
        "channels after the encoder's stem and its blocks",
        preset=_tiny((16, 32, 64)),
    )
    encoder_units: tuple[int, ...] = option((3, 4), "units of each block", preset=_tiny((1, 2)))
    decoder_width: int = option(1024, "channels of the decoder's first unit", preset=_tiny(64))

    background_width: int = option(
        64, "channels of the background network's first layer", preset=_tiny(8)
    )
    background_levels: int = option(7, "halvings of the background network", preset=_tiny(5))
    pconv_ratio: Literal["nvidia", "ksq"] = option(
        "nvidia", "what partial convolutions divide by; ksq as the published code (ours)"
    )
    noise_channel: bool = option(
        False, "a channel of noise for the background network, while training (ours: none)"
    )

    losses: tuple[Loss, ...] = option(
        ("perceptual", "gan"),
        "terms of the generator's loss, any of l1, perceptual, gan",
        preset=_tiny(("l1",)),
    )
    adversarial_weight: float = option(1.0, "of the adversarial loss")
    perceptual_weight: float = option(3.0, "of the perceptual loss")
    l1_weight: float = option(1.0, "of the l1 distance, where it is a term")
    real_target: float = option(0.875, "what the discriminator is to say of real pictures")
    vgg_mode: VGGMode = option(
        "caffe",
        "pixels of the perceptual loss: caffe, 0..255 less the mean of BGR; caffe_legacy_means, "
        "with the means in the published code's order; torch, for torchvision's weights, with "
        "features some sixty times smaller: mind --perceptual-weight (ours)",
    )
    vgg_weights: str | None = option(
        None, "file of VGG-19 weights as torchvision names them; none: see models/features.py"
    )

    disc_widths: tuple[int, ...] = option(
        (64, 256, 512, 1024),
        "channels after the discriminator's stem and its blocks",
        preset=_tiny((16, 32, 64, 128)),
    )
    disc_units: tuple[int, ...] = option((3, 4, 6), "units of each block", preset=_tiny((1, 1, 1)))
    disc_depth_bins: int = option(
        32, "steps along z of the heatmaps that the discriminator sees", preset=_tiny(8)
    )
    d_reduce: Literal["per_image", "batch"] = option(
        "per_image", "one score per picture, or as the published code one of the whole batch (ours)"
    )

    augment: bool = option(
        True, "colors, positions and sides of a pair at random while training", preset=_tiny(False)
    )
    weight_reg: float = option(
        0.0, "of the squared kernels of the encoder and the discriminator; published 1e-4 (ours)"
    )
    learning_rate: float = option(2e-4, "of Adam", preset=_tiny(1e-3))
    beta1: float = option(0.5, "of Adam")
    beta2: float = option(0.999, "of Adam")
    train_steps: int = option(150_000, "of the only stage", preset=_tiny(600))

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in _AT_LEAST_1:
            self._require(name, getattr(self, name) >= 1, "at least 1")
        for name in _NOT_NEGATIVE:
            self._require(name, getattr(self, name) >= 0, "at least 0")
        self._require("pose_sigma", self.pose_sigma > 0, "above 0")
        self._require("real_target", 0 < self.real_target <= 1, "above 0 and at most 1")
        reconstructs = {"l1", "perceptual"} & set(self.losses)
        distinct = len(set(self.losses)) == len(self.losses)
        self._require("losses", bool(reconstructs) and distinct, "l1, perceptual or both, with gan")
        for part in ("encoder", "disc"):
            widths, units = getattr(self, f"{part}_widths"), getattr(self, f"{part}_units")
            blocks = {"encoder": 2, "disc": 3}[part]
            self._require(
                f"{part}_widths",
                len(widths) == blocks + 1 and all(w >= 4 and w % 4 == 0 for w in widths),
                f"{blocks + 1} multiples of 4",
            )
            self._require(
                f"{part}_units",
                len(units) == blocks and all(count >= 1 for count in units),
                f"{blocks} numbers of at least 1",
            )
        self._require(
            "decoder_width",
            self.decoder_width % 16 == 0,
            "a multiple of 16",
        )
        self._require(
            "legacy_crop", self.grid == "node65" or not self.legacy_crop, "false with cell64"
        )

    def _require(self, name: str, holds: bool, words: str) -> None:
        if not holds:
            flag = "--" + name.replace("_", "-")
            raise ValueError(f"{flag} must be {words}, got {getattr(self, name)!r}")
