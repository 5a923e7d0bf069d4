# SPDX-License-Identifier: Apache-2.0
"""Every choice of Dense Pose Transfer; the defaults are the published system.

What the paper leaves open, and so is a choice of this implementation, is marked (open).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..config import Settings, option

PoseRepr = Literal["iuv", "onehot_iuv", "segm", "keypoints", "mask"]
Modules = Literal["full", "pred_warp_blend", "pred_blend", "pred"]
UVEncode = Literal["quad", "splat", "delaunay"]
Loss = Literal["l1", "perceptual", "style", "gan", "structure", "realism", "balanced"]

# The named rows of Table 1, as terms of Table 4.
LOSS_PRESETS: dict[str, tuple[str, ...]] = {
    "structure": ("l1",),
    "realism": ("l1", "style"),
    "balanced": ("l1", "perceptual", "style", "gan"),
}
_AT_LEAST_1 = (
    "width",
    "blend_width",
    "tile_size",
    "inpaint_width",
    "global_code",
    "inpaint_views",
    "discriminator_width",
    "predictive_steps",
    "inpainting_steps",
    "finetune_steps",
)
EPOCH = 140_110 // 8  # steps through the published training pairs, batches of 8


def _tiny(value: object) -> dict[str, object]:
    return {"tiny": value}


@dataclass(frozen=True)
class Config(Settings):
    """Dense Pose Transfer: see `system.DensePoseTransfer` for what the parts are."""

    pose_repr: PoseRepr = option("iuv", "what tells the networks the pose (Table 2)")
    pose_on_source: Literal["auto", "true", "false"] = option(
        "auto", "give the predictive module the source's pose too; auto: with iuv and onehot_iuv"
    )
    keypoint_sigma: float = option(6.0, "of the joints' maps, in pixels at a height of 256 (open)")
    modules: Modules = option("full", "which modules there are (Table 3)")
    losses: tuple[Loss, ...] = option(
        ("balanced",),
        "terms of the last stage (Table 4): l1 with any of perceptual, style, gan; or one of "
        "structure (l1), realism (l1 style), balanced (all four)",
        preset=_tiny(("structure",)),
    )

    width: int = option(64, "channels of the predictive module's first layer", preset=_tiny(16))
    blocks: int = option(6, "residual blocks of the predictive module", preset=_tiny(3))
    blend_width: int = option(64, "channels of the blending module", preset=_tiny(16))
    blend_blocks: int = option(3, "residual blocks of the blending module")
    blend_norm: Literal["instance", "none"] = option(
        "instance", "normalization of the blending module (open)", preset=_tiny("none")
    )

    tile_size: int = option(256, "S, side of a part's texture in texels", preset=_tiny(32))
    uv_encode: UVEncode = option(
        "quad",
        "from picture to texture: quad triangles of the pixel grid, splat with nearby holes "
        "filled, delaunay with SciPy on the CPU, for reference (open)",
        preset=_tiny("splat"),
    )
    max_edge: float = option(
        0.12, "longest edge of a triangle in units of u and v (open)", preset=_tiny(0.5)
    )
    fill_radius: int = option(4, "texels around a hit that splat fills (open)", preset=_tiny(2))
    inpaint_levels: Literal[6, 4] = option(
        6, "halvings of a tile in its autoencoder (open)", preset=_tiny(4)
    )
    inpaint_width: int = option(
        16, "channels of a part's first encoder layer (open)", preset=_tiny(8)
    )
    inpaint_global: bool = option(True, "share one code of the whole person among the parts")
    global_code: int = option(256, "length of the shared code", preset=_tiny(64))
    inpaint_norm: Literal["instance", "none"] = option(
        "instance", "normalization of the autoencoders (open)", preset=_tiny("none")
    )
    keep_observed: bool = option(
        True, "texels that the source shows stay; false: all are the autoencoder's (open)"
    )
    inpaint_views: int = option(
        4,
        "pictures that supervise the inpainting: the source, the target, then --views (open)",
        preset=_tiny(2),
    )
    finetune_inp_loss: bool = option(True, "keep the inpainting loss in the last stage (open)")

    l1_weight: float = option(1.0, "of the reconstruction")
    perceptual_weight: float = option(0.5, "of the perceptual loss")
    style_weight: float = option(5e5, "of the style loss")
    gan_weight: float = option(0.1, "of the adversarial loss")
    inpaint_weight: float = option(1.0, "of the inpainting loss (open)")
    perc_norm: Literal["rms", "mse", "l1"] = option(
        "rms", "how the perceptual loss measures a layer's difference (open)"
    )
    gram_norm: Literal["chw", "none"] = option(
        "chw", "Gram matrices are divided by channels x height x width, or not (open)"
    )
    vgg_weights: str | None = option(
        None, "file of VGG-19 weights as torchvision names them; none: see models/features.py"
    )
    discriminator_width: int = option(
        64, "channels of the discriminator's first layer", preset=_tiny(16)
    )

    learning_rate: float = option(2e-4, "of Adam, in every stage", preset=_tiny(2e-3))
    beta1: float = option(0.5, "of Adam")
    beta2: float = option(0.999, "of Adam")
    predictive_steps: int = option(
        40 * EPOCH, "of the first stage: the predictive module alone", preset=_tiny(500)
    )
    inpainting_steps: int = option(
        40 * EPOCH, "of the second stage: the inpainting module alone", preset=_tiny(300)
    )
    finetune_steps: int = option(
        40 * EPOCH, "of the last stage: blending, and everything end to end", preset=_tiny(900)
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.terms  # noqa: B018  (checks)
        for name in _AT_LEAST_1:
            if getattr(self, name) < 1:
                flag = "--" + name.replace("_", "-")
                raise ValueError(f"{flag} must be at least 1, got {getattr(self, name)}")
        if self.modules == "full" and self.tile_size % 2**self.inpaint_levels:
            raise ValueError(
                f"--tile-size must be a multiple of {2**self.inpaint_levels} "
                f"(--inpaint-levels {self.inpaint_levels}), got {self.tile_size}"
            )

    @property
    def terms(self) -> tuple[str, ...]:
        """The terms of the last stage's loss, presets spelled out."""
        if len(self.losses) == 1 and self.losses[0] in LOSS_PRESETS:
            return LOSS_PRESETS[self.losses[0]]
        named = [name for name in self.losses if name in LOSS_PRESETS]
        if named or "l1" not in self.losses or len(set(self.losses)) < len(self.losses):
            raise ValueError(
                "--losses must be l1 with any of perceptual, style, gan, or one of "
                f"{', '.join(LOSS_PRESETS)}, got {' '.join(self.losses) or 'nothing'}"
            )
        return tuple(self.losses)

    @property
    def source_pose(self) -> bool:
        """Whether the predictive module sees the source's pose.

        auto: the published numbers of input planes, 9 with both poses, but 4, 27 and 21 with one.
        """
        if self.pose_on_source == "auto":
            return self.pose_repr in ("iuv", "onehot_iuv")
        return self.pose_on_source == "true"

    @property
    def warps(self) -> bool:
        return self.modules in ("full", "pred_warp_blend")

    @property
    def blends(self) -> bool:
        return self.modules != "pred"

    @property
    def inpaints(self) -> bool:
        return self.modules == "full"
