# SPDX-License-Identifier: Apache-2.0
"""The system: its networks put together, its stage and its losses."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from .. import losses
from ..batch import Batch
from ..features import Features, vgg19
from ..layers import VolumeResidualBlock
from ..system import DISCRIMINATOR, GENERATOR, Stage, System
from . import config as configuration
from .augmentation import augmented
from .background import Background
from .body import Body, Grid, colored, padded, without_depth
from .decoder import ProjectionDecoder
from .discriminator import Discriminator
from .encoder import Lift, PictureEncoder, PoseEncoder
from .warping import warped

TRAIN = "train"
_LAYER_WEIGHTS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0)  # of relu1_2 ... relu5_2


class VolumeReposing(System):
    """A picture is lifted to a volume of features, ten parts of which move to the target's pose.

    E_2D and a lifting convolution make the volume, E_3D refines it; each part of the body, a mask
    in space, takes its share of it along by a similarity; beside the encoded heatmaps of the
    target's pose, D_3D and D_2D make the person's picture and outline of it, to be laid over the
    background that a network of partial convolutions has completed.

    One stage with both players. Pictures must be square with a side that is a multiple of 4.

    `generate` returns `out`; `fg` (N, 3, H, W), `fg_mask` (N, 1, H, W) and `bg` (N, 3, H, W), of
    which it is mixed; and `known` (N, 1, H, W), 1 where the source shows background.

    Source: Knoche, Sárándi, Leibe, "Reposing Humans by Warping 3D Features", CVPR Workshops 2020.
    """

    name = "volume_reposing"
    needs = frozenset({"source_image", "target_image", "source_joints19", "target_joints19"})
    Config = configuration.Config
    config: configuration.Config
    training_presets = {
        "paper": {"batch": 2, "size": (256, 256)},
        "tiny": {"batch": 8, "size": (64, 64)},
    }

    def __init__(self, config: configuration.Config) -> None:
        super().__init__(config)
        nodes = config.grid == "node65"
        depth, width = config.depth + nodes, config.features
        joined = width + config.pose_features
        self.picture_encoder = PictureEncoder(config)
        self.lift = Lift(config.encoder_widths[-1], depth, width)
        self.volume_encoder = _units(width, config.volume_units)
        self.pose_encoder = PoseEncoder(config.pose_features, config.volume_units)
        self.volume_decoder = _units(joined, config.volume_units)
        self.picture_decoder = ProjectionDecoder(depth * joined, config.decoder_width, nodes)
        self.background = Background(config)
        self.discriminator = Discriminator(config) if "gan" in config.losses else None
        self.likeness: losses.Perceptual | None = None
        if "perceptual" in config.losses:
            features = _features(config)
            self.likeness = losses.Perceptual(features, weights=_LAYER_WEIGHTS, criterion="l1")

    # What trains when

    @property
    def stages(self) -> Sequence[Stage]:
        turns = (GENERATOR, DISCRIMINATOR) if self.discriminator is not None else (GENERATOR,)
        return [Stage(TRAIN, self.config.train_steps, turns)]

    def players(self, stage: str) -> dict[str, list[Parameter]]:
        modules = (
            self.picture_encoder,
            self.lift,
            self.volume_encoder,
            self.pose_encoder,
            self.volume_decoder,
            self.picture_decoder,
            self.background,
        )
        players = {GENERATOR: [p for module in modules for p in module.parameters()]}
        if self.discriminator is not None:
            players[DISCRIMINATOR] = list(self.discriminator.parameters())
        return players

    def optimizer(self, player: str, parameters: list[Parameter]) -> torch.optim.Optimizer:
        config = self.config
        return torch.optim.Adam(parameters, config.learning_rate, (config.beta1, config.beta2))

    # Pictures

    def bodies(self, batch: Batch) -> tuple[Body, Body]:
        """The source's and the target's pose on the system's grid.

        Raises ValueError for pictures that are not square or have a side that does not fit.
        """
        height, width = batch["source_image"].shape[2:]
        if height != width:
            raise ValueError(f"source_image must be square, got {height} x {width}")
        grid = Grid(self.config.grid, height, self.config.depth)
        return Body.of(batch["source_joints19"], grid), Body.of(batch["target_joints19"], grid)

    def volume(self, image: Tensor, grid: Grid) -> Tensor:
        """The features of pictures (N, 3, H, W): (N, C, D, H', W')."""
        image = padded(image) if grid.nodes else image
        features: Tensor = self.volume_encoder(self.lift(self.picture_encoder(image)))
        return features

    def generate(self, batch: Batch) -> dict[str, Tensor]:
        image = batch["source_image"]
        source, target = self.bodies(batch)
        heat = target.heat(self.config.pose_sigma)
        if self.config.pose == "2d":
            heat = without_depth(heat)
        moved = warped(self.volume(image, source.grid), source, target, self.config)
        pose = self.pose_encoder(heat)
        joined = torch.cat([moved.to(pose.dtype), pose], 1)
        fg, fg_mask = map(self._cropped, self.picture_decoder(self.volume_decoder(joined)))
        hidden = source.outline().any(1, keepdim=True)
        known = 1 - hidden.to(image.dtype)
        bg = self._cropped(self._background(image, known))
        return {
            "out": fg_mask * fg + (1 - fg_mask) * bg,
            "fg": fg,
            "fg_mask": fg_mask,
            "bg": bg,
            "known": known,
        }

    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        results = self.generate(batch)
        _, target = self.bodies(batch)
        return {
            "source": batch["source_image"],
            "target parts": colored(target.outline()),
            "person": results["fg"],
            "outline": (results["fg_mask"] * 2 - 1).expand_as(results["fg"]),
            "background": results["bg"],
            "out": results["out"],
            "target": batch["target_image"],
        }

    def _background(self, image: Tensor, known: Tensor) -> Tensor:
        """With noise only while training: what is generated is a function of the batch."""
        if self.config.noise_channel:
            noise = torch.randn_like(image[:, :1])
            image = torch.cat([image, noise if self.training else torch.zeros_like(noise)], 1)
        if self.config.grid == "node65":
            image, known = padded(image), padded(known)
        completed: Tensor = self.background(image, known)
        return completed

    def _cropped(self, image: Tensor) -> Tensor:
        """Without the row and the column that `padded` has added."""
        if self.config.grid == "cell64":
            return image
        return image[..., 1:, 1:] if self.config.legacy_crop else image[..., :-1, :-1]

    # Losses

    def losses(self, batch: Batch, stage: str, player: str) -> dict[str, Tensor]:
        config = self.config
        if config.augment and self.training:
            batch = augmented(batch)
        if player == DISCRIMINATOR:
            assert self.discriminator is not None
            with torch.no_grad():
                out = self.generate(batch)["out"]
            real, fake = self._judge(batch, batch["target_image"]), self._judge(batch, out)
            # the published loss is the sum of both halves, not their mean
            loss = losses.bce_discriminator(real, fake, real_target=config.real_target)
            return {"discriminator": 2 * loss, **self._regularized(self.discriminator)}
        out, target = self.generate(batch)["out"].float(), batch["target_image"]
        terms: dict[str, Tensor] = {}
        if "l1" in config.losses:
            terms["l1"] = config.l1_weight * losses.l1(out, target)
        if self.likeness is not None:
            terms["perceptual"] = config.perceptual_weight * self.likeness(out, target)
        if self.discriminator is not None:
            fake = self._judge(batch, out)
            terms["gan"] = config.adversarial_weight * losses.bce_generator(fake)
        return {**terms, **self._regularized(self.picture_encoder)}

    def _judge(self, batch: Batch, image: Tensor) -> Tensor:
        assert self.discriminator is not None
        _, target = self.bodies(batch)
        heat = target.heat_on_pixels(self.config.pose_sigma, self.config.disc_depth_bins)
        score: Tensor = self.discriminator(torch.cat([batch["source_image"], image, heat], 1))
        return score

    def _regularized(self, module: nn.Module) -> dict[str, Tensor]:
        """Half the squares of the convolutions' kernels, if they count at all."""
        if not self.config.weight_reg:
            return {}
        kernels = [m.weight for m in module.modules() if isinstance(m, nn.Conv2d)]
        squares = torch.stack([kernel.float().square().sum() for kernel in kernels])
        return {"weight_reg": self.config.weight_reg / 2 * squares.sum()}


def _units(width: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(VolumeResidualBlock(width) for _ in range(count)))


def _features(config: configuration.Config) -> Features:
    mode = config.vgg_mode
    features = vgg19(config.vgg_weights, pixels="torch" if mode == "torch" else "caffe")
    if mode == "caffe_legacy_means":
        features.mean.copy_(features.mean.flip(0))  # those of BGR, taken from RGB
        features.source += " with the means of blue and red exchanged"
    return features
