# SPDX-License-Identifier: Apache-2.0
"""Dense Pose Transfer as a system: its modules put together, its stages and their losses."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import Parameter

from .. import losses
from ..batch import Batch
from ..features import vgg19
from ..layers import PatchGAN
from ..system import DISCRIMINATOR, GENERATOR, Stage, System
from . import config as configuration
from .blending import Blending
from .inpainting import Inpainting, inpainting_loss
from .pose import keys, planes, pose_planes
from .predictive import Predictive
from .warping import lift, paint

PREDICTIVE, INPAINTING, FINETUNE = "predictive", "inpainting", "finetune"


class DensePoseTransfer(System):
    """Two streams and their blend: a network predicts the picture, and the source's texture is
    lifted onto the surface of the body, completed there and painted in the target's pose.

    Stages: the predictive module alone, the inpainting module alone (`modules="full"` only), then
    all end to end with the blending module. Without a module its stage is not there; "pred" has
    the last stage too, so that all rows of Table 3 train the predictive module equally long.

    `generate` returns `pred`, the predictive module's picture, and `out`; with the warping stream
    also `tex` (N, 24, 3, S, S) and `tex_mask` (N, 24, 1, S, S), what the source shows; `tex_full`,
    what is painted; `warp` (N, 3, H, W) and `warp_mask` (N, 1, H, W), the known share of each
    pixel's color.

    Source: Neverova, Güler, Kokkinos, "Dense Pose Transfer", ECCV 2018.
    """

    name = "dense_pose_transfer"
    needs = frozenset(
        {"source_image", "target_image", "source_part", "source_uv", "target_part", "target_uv"}
    )
    Config = configuration.Config
    config: configuration.Config
    training_presets = {
        "paper": {"batch": 8, "size": (256, 256), "views": 4},
        "tiny": {
            "batch": 4,
            "size": (64, 64),
            "views": 0,
            "sheet_every": 250,
            "save_every": 250,
        },
    }

    def __init__(self, config: configuration.Config) -> None:
        super().__init__(config)
        self.needs = _needs(config)
        pose = planes(config.pose_repr)
        seen = 3 + pose * (2 if config.source_pose else 1)
        self.predictive = Predictive(seen, config.width, config.blocks)
        self.inpainting = Inpainting(config) if config.inpaints else None
        self.blending: Blending | None = None
        if config.blends:
            channels = 3 + (3 if config.warps else 0) + pose
            self.blending = Blending(
                channels, config.blend_width, config.blend_blocks, config.blend_norm
            )
        self.discriminator: PatchGAN | None = None
        if "gan" in config.terms:
            self.discriminator = PatchGAN(6 + pose, config.discriminator_width)
        self.likeness: losses.FeatureLosses | None = None
        if {"perceptual", "style"} & set(config.terms):
            features = vgg19(config.vgg_weights)
            terms: dict[str, losses.Perceptual | losses.Style] = {}
            if "perceptual" in config.terms:
                terms["perceptual"] = losses.Perceptual(features, criterion=config.perc_norm)
            if "style" in config.terms:
                terms["style"] = losses.Style(features, norm=config.gram_norm)
            self.likeness = losses.FeatureLosses(features, **terms)

    # What trains when

    @property
    def stages(self) -> Sequence[Stage]:
        last = (GENERATOR, DISCRIMINATOR) if self.discriminator is not None else (GENERATOR,)
        stages = [Stage(PREDICTIVE, self.config.predictive_steps)]
        if self.inpainting is not None:
            stages.append(Stage(INPAINTING, self.config.inpainting_steps))
        return [*stages, Stage(FINETUNE, self.config.finetune_steps, last)]

    def players(self, stage: str) -> dict[str, list[Parameter]]:
        if stage == PREDICTIVE:
            return {GENERATOR: list(self.predictive.parameters())}
        if stage == INPAINTING:
            assert self.inpainting is not None
            return {GENERATOR: list(self.inpainting.parameters())}
        modules = [self.predictive, self.inpainting, self.blending]
        players = {GENERATOR: [p for m in modules if m is not None for p in m.parameters()]}
        if self.discriminator is not None:
            players[DISCRIMINATOR] = list(self.discriminator.parameters())
        return players

    def optimizer(self, player: str, parameters: list[Parameter]) -> torch.optim.Optimizer:
        config = self.config
        return torch.optim.Adam(parameters, config.learning_rate, (config.beta1, config.beta2))

    # Pictures

    def generate(self, batch: Batch) -> dict[str, Tensor]:
        results = self._pose_and_pred(batch)
        if self.config.warps:
            results |= self._warp(batch)
        results["out"] = results["pred"]
        if self.blending is not None:
            seen = [results["pred"], results["target_pose"]]
            if self.config.warps:
                seen.insert(1, results["warp"])
            results["out"] = results["pred"] + self.blending(torch.cat(seen, 1))
        return results

    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        results = self.generate(batch)
        columns = {"source": batch["source_image"]}
        if "target_part" in batch and "target_uv" in batch:
            columns["target pose"] = pose_planes(batch, "target", "iuv")
        for title in ("warp", "pred", "out"):
            if title in results:
                columns[title] = results[title]
        return {**columns, "target": batch["target_image"]}

    def _pose(self, batch: Batch, which: str) -> Tensor:
        return pose_planes(batch, which, self.config.pose_repr, self.config.keypoint_sigma)

    def _pose_and_pred(self, batch: Batch) -> dict[str, Tensor]:
        image = batch["source_image"]
        if image.shape[2] % 4 or image.shape[3] % 4:
            height, width = image.shape[2:]
            raise ValueError(
                f"source_image must have a height and width that are multiples of 4, "
                f"got {height} x {width}"
            )
        pose = self._pose(batch, "target")
        seen = [image, pose]
        if self.config.source_pose:
            seen.insert(1, self._pose(batch, "source"))
        return {"target_pose": pose, "pred": self.predictive(torch.cat(seen, 1))}

    def _lift(self, image: Tensor, part: Tensor, uv: Tensor) -> tuple[Tensor, Tensor]:
        config = self.config
        return lift(
            image,
            part,
            uv,
            size=config.tile_size,
            encode=config.uv_encode,
            max_edge=config.max_edge,
            radius=config.fill_radius,
        )

    def _texture(self, batch: Batch) -> dict[str, Tensor]:
        texture, mask = self._lift(batch["source_image"], batch["source_part"], batch["source_uv"])
        results = {"tex": texture, "tex_mask": mask, "tex_full": texture}
        if self.inpainting is not None:
            predicted = self.inpainting(texture, mask)
            results |= {"tex_predicted": predicted, "tex_full": predicted}
            if self.config.keep_observed:
                results["tex_full"] = torch.where(mask > 0, texture.to(predicted.dtype), predicted)
        return results

    def _warp(self, batch: Batch) -> dict[str, Tensor]:
        results = self._texture(batch)
        known = None if self.inpainting is not None else results["tex_mask"]
        warp, mask = paint(results["tex_full"], batch["target_part"], batch["target_uv"], known)
        return {**results, "warp": warp, "warp_mask": mask}

    # Losses

    def losses(self, batch: Batch, stage: str, player: str) -> dict[str, Tensor]:
        if stage == INPAINTING:
            predicted = self._texture(batch)["tex_predicted"]
            return {"inpaint": self._inpaint_loss(batch, predicted)}
        if stage == PREDICTIVE:
            pred = self._pose_and_pred(batch)["pred"]
            return self._likeness(pred, batch["target_image"])
        if player == DISCRIMINATOR:
            assert self.discriminator is not None
            with torch.no_grad():
                results = self.generate(batch)
            real = self._judge(batch, results, batch["target_image"])
            fake = self._judge(batch, results, results["out"])
            return {"discriminator": losses.lsgan_discriminator(real, fake)}
        results = self.generate(batch)
        terms = self._likeness(results["out"], batch["target_image"])
        if self.discriminator is not None:
            fake = self._judge(batch, results, results["out"])
            terms["gan"] = self.config.gan_weight * losses.lsgan_generator(fake)
        if self.inpainting is not None and self.config.finetune_inp_loss:
            terms["inpaint"] = self._inpaint_loss(batch, results["tex_predicted"])
        return terms

    def _likeness(self, out: Tensor, target: Tensor) -> dict[str, Tensor]:
        config, out = self.config, out.float()
        terms = {"l1": config.l1_weight * losses.l1(out, target)}
        if self.likeness is not None:
            weights = {"perceptual": config.perceptual_weight, "style": config.style_weight}
            found = self.likeness(out, target)
            terms |= {name: weights[name] * value for name, value in found.items()}
        return terms

    def _judge(self, batch: Batch, results: dict[str, Tensor], image: Tensor) -> Tensor:
        assert self.discriminator is not None
        seen = torch.cat([batch["source_image"], results["target_pose"], image], 1)
        score: Tensor = self.discriminator(seen)
        return score

    def _inpaint_loss(self, batch: Batch, predicted: Tensor) -> Tensor:
        """Against the source, the target, and as many further views as there are and may be."""
        views = [[batch[f"{which}_{key}"] for which in ("source", "target")] for key in _LIFTED]
        if "view_image" in batch:  # the first of them is the source again
            for seen, key in zip(views, _LIFTED):
                seen += batch[f"view_{key}"][:, 1:].unbind(1)
        count = min(self.config.inpaint_views, len(views[0]))
        stacked = [torch.stack(seen[:count], 1).flatten(0, 1) for seen in views]
        with torch.no_grad():
            textures, masks = self._lift(*stacked)
        shape = (-1, count)
        loss = inpainting_loss(predicted, textures.unflatten(0, shape), masks.unflatten(0, shape))
        return self.config.inpaint_weight * loss


_LIFTED = ("image", "part", "uv")


def _needs(config: configuration.Config) -> frozenset[str]:
    needs = {"source_image", "target_image"} | keys(config.pose_repr, "target")
    if config.source_pose:
        needs |= keys(config.pose_repr, "source")
    if config.warps:
        needs |= {"source_part", "source_uv", "target_part", "target_uv"}
    return frozenset(needs)
