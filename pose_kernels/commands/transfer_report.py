# SPDX-License-Identifier: Apache-2.0
"""What a texture transfer leaves behind: scores, pictures, a panel and metrics.json."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import __version__, io, metrics, panel, silhouette
from ..io import IUV
from ..transfer import BACKGROUND, Transfer

FILES = (
    "partial_atlas.png",
    "filled_atlas.png",
    "transferred.png",
    "panel.png",
    "metrics.json",
)
_RADII = (0, 1, 2, 4, 8, 16, 32)
_MARGIN = 0.06  # around the people, of their larger side


def score(
    result: Transfer,
    truth: Tensor,
    background: Tensor | None = None,
    image: Tensor | None = None,
    source: IUV | None = None,
) -> dict[str, Any]:
    """Compare with the true target photo where the source shows the surface.

    Args:
        truth: (3, H, W) in [0, 1].
        background: (H, W) bool, target pixels that show no body whatever the map says. They and the
            mixed pixels next to them are not counted.
        image, source: the source photo and map, for the two baselines.

    Returns:
        "psnr" (dB) and "ssim" over the covered pixels, "coverage" their share of the counted
        foreground; "by_radius" the same for other radii; "whole_map" over every body pixel of the
        map, covered or not, counted or not; "baselines": PSNR, on the same covered pixels, of
        painting the source body's mean color and of copying the source photo.
    """
    counted = body = result.foreground
    if background is not None:
        counted = body & ~silhouette.grow(background, 1)
    reached = result.covered()
    covered = reached & counted
    box = silhouette.body_box(body, 0)
    baselines = {}
    if image is not None and source is not None:
        mean = image[:, source.part > 0].mean(1)[:, None, None].expand_as(truth)
        baselines["mean_color"] = metrics.psnr(mean, truth, covered)
        if image.shape == truth.shape:
            baselines["copy_of_source"] = metrics.psnr(image, truth, covered)
    painted, truth = result.image[:, box[0], box[1]], truth[:, box[0], box[1]]
    by_radius = []
    for radius in sorted({*_RADII, result.radius}):
        near = result.covered(radius) & counted
        found = metrics.psnr(painted, truth, near[box])
        by_radius.append({"radius": radius, "coverage": _share(near, counted), "psnr": found})
    return {
        "psnr": metrics.psnr(painted, truth, covered[box]),
        "ssim": metrics.ssim(painted, truth, covered[box]),
        "coverage": _share(covered, counted),
        "covered_pixels": int(covered.sum()),
        "foreground_pixels": int(counted.sum()),
        "left_out_as_background": int((body & ~counted).sum()),
        "by_radius": by_radius,
        "whole_map": {
            "psnr": metrics.psnr(painted, truth, body[box]),
            "coverage": _share(reached, body),
        },
        "baselines": baselines,
    }


def files(
    result: Transfer,
    scores: dict[str, Any] | None,
    image: Tensor | None,
    source: IUV | None,
    truth: Tensor | None,
) -> dict[str, bytes]:
    """The contents of every file by name, in the order of ``FILES``; no partial atlas without a
    photo."""
    pictures: dict[str, Any] = {}
    if result.partial is not None:
        pictures["partial_atlas.png"] = io.atlas_mosaic(result.partial)
    pictures["filled_atlas.png"] = io.atlas_mosaic(result.atlas)
    pictures["transferred.png"] = result.image
    pictures["panel.png"] = _panel(result, scores, image, source, truth)
    contents = {name: io.encode_picture(name, picture) for name, picture in pictures.items()}
    facts = {
        "pose_kernels": __version__,
        "torch": torch.__version__,
        "device": str(result.image.device),
        "size": result.atlas.shape[-1],
        "radius": result.radius,
        "lift": None if result.partial is None else result.lift,
        "scores": scores,
        "stages": [stage._asdict() for stage in result.stages],
    }
    text = json.dumps(_without_nan(facts), indent=2) + "\n"
    contents["metrics.json"] = text.encode()
    return contents


def summary(result: Transfer, scores: dict[str, Any] | None) -> str:
    """Lines for the terminal."""
    if scores is None:
        share = _share(result.covered(), result.foreground)
        return f"covered {_percent(share)} of the foreground; scores need --target-image"
    lines = [
        f"PSNR {_decibel(scores['psnr'])}, SSIM {scores['ssim']:.3f} on the covered foreground: "
        f"{_percent(scores['coverage'])}, within {result.radius} texels of what the source shows"
    ]
    if scores["baselines"]:
        names = ((key.replace("_", " "), value) for key, value in scores["baselines"].items())
        lines.append(
            "on the same pixels: " + ", ".join(f"{k} {_decibel(value)}" for k, value in names)
        )
    return "\n".join(lines)


def _panel(
    result: Transfer,
    scores: dict[str, Any] | None,
    image: Tensor | None,
    source: IUV | None,
    truth: Tensor | None,
) -> panel.Pixels:
    cards = []
    if image is not None and source is not None:
        photo = _framed(panel.to_pixels(image), source.part > 0)
        cards.append(panel.Card(photo, "source", _pixels(image)))
    if result.partial is not None and result.weight is not None:
        seen = panel.atlas_picture(result.partial, result.weight)
        share = _percent(float((result.weight > 1e-3).float().mean()))
        cards.append(panel.Card(seen, "partial atlas", f"{share} of the texels", result.lift))
    everywhere = torch.ones_like(result.atlas[:, 0])
    filled = panel.atlas_picture(result.atlas, everywhere)
    side = result.atlas.shape[-1]
    cards.append(
        panel.Card(filled, "filled atlas", f"24 x {side} x {side}", "fill" if cards else "")
    )
    body = result.foreground
    target = _framed(panel.iuv_picture(result.target.part, result.target.uv), body)
    cards.append(panel.Card(target, "target pose", _pixels(result.image)))
    painted = _framed(panel.to_pixels(result.image), body)
    note = f"{_percent(_share(result.covered(), body))} covered"
    if scores is not None:
        note = f"{_decibel(scores['psnr'])}, {_percent(scores['coverage'])} covered"
    cards.append(panel.Card(painted, "transferred", note, "gather"))
    if truth is not None:
        cards.append(panel.Card(_framed(panel.to_pixels(truth), body), "true target"))
    return panel.compose(cards)


def _framed(picture: panel.Pixels, body: Tensor) -> panel.Pixels:
    """Cut to the people with a margin, at the 2 : 3 of a card; gray beyond the picture."""
    rows, columns = picture.shape[:2]
    around = [
        (span.start, min(span.stop, n))
        for span, n in zip(silhouette.body_box(body, 0), (rows, columns))
    ]
    tall, wide = ((1 + 2 * _MARGIN) * (stop - start) for start, stop in around)
    height = max(1, round(max(tall, wide * 3 / 2)))
    width = max(1, round(height * 2 / 3))
    page = np.full((height, width, 3), round(BACKGROUND * 255), np.uint8)
    top, left = ((start + stop - side) // 2 for (start, stop), side in zip(around, (height, width)))
    # never beyond the picture on one side while some of it is left on the other
    top = min(max(top, 0), rows - height) if height <= rows else (rows - height) // 2
    left = min(max(left, 0), columns - width) if width <= columns else (columns - width) // 2
    part = picture[max(top, 0) : top + height, max(left, 0) : left + width]
    y, x = max(-top, 0), max(-left, 0)
    page[y : y + part.shape[0], x : x + part.shape[1]] = part
    return page


def _pixels(image: Tensor) -> str:
    return f"{image.shape[2]} x {image.shape[1]} pixels"


def _share(some: Tensor, of: Tensor) -> float:
    whole = int(of.sum())
    return int(some.sum()) / whole if whole else math.nan


def _percent(share: float) -> str:
    return "none" if math.isnan(share) else f"{100 * share:.1f} %"


def _decibel(value: float) -> str:
    return "undefined" if math.isnan(value) else f"{value:.2f} dB"


def _without_nan(value: Any) -> Any:
    """JSON has no NaN and no infinity: null instead."""
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
