# SPDX-License-Identifier: Apache-2.0
"""Labelled pictures: IUV maps and atlases made visible, cards set in a row or in a grid."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

Pixels = NDArray[np.uint8]  # (H, W, 3)

_PAPER = (252, 252, 250)
_INK = (38, 42, 52)
_FAINT = (122, 128, 140)
_EMPTY = (232, 234, 238)  # what no photo showed

# Groups of parts that share a hue: torso, hands, feet, upper legs, lower legs, upper and lower
# arms, head. Left and right, back and front differ by a step of hue and of lightness.
_HUES = {
    0.58: (1, 2),
    0.03: (3, 4),
    0.92: (5, 6),
    0.40: (7, 9, 8, 10),
    0.27: (11, 13, 12, 14),
    0.72: (15, 17, 16, 18),
    0.82: (19, 21, 20, 22),
    0.11: (23, 24),
}


def _part_colors() -> NDArray[np.float64]:
    colors = np.full((256, 3), 0.5)
    colors[0] = np.array(_EMPTY) / 255
    for hue, parts in _HUES.items():
        for i, part in enumerate(parts):
            colors[part] = colorsys.hls_to_rgb((hue + 0.022 * i) % 1, 0.52 + 0.05 * (i % 2), 0.62)
    return colors


def to_pixels(image: Tensor) -> Pixels:
    """(3, H, W) in [0, 1] -> (H, W, 3) uint8, rounded."""
    values = image.detach().float().cpu().clamp(0, 1).mul(255).round()
    return values.permute(1, 2, 0).numpy().astype(np.uint8)


def iuv_picture(part: Tensor, uv: Tensor, lines: int = 4) -> Pixels:
    """A part map as colors, with lines of equal u and equal v on it.

    part: (H, W), any integer dtype. uv: (2, H, W) in [0, 1]. lines: cells per tile side.
    """
    labels = part.cpu().numpy().astype(np.uint8)
    u, v = uv.detach().float().cpu().numpy()
    color = _part_colors()[labels]
    body = labels > 0
    color[body] *= (0.78 + 0.34 * v[body])[:, None]
    cells = np.stack((np.floor(u * lines), np.floor(v * lines)))
    edge = np.zeros(labels.shape, bool)
    for axis in (0, 1):
        near, far = np.roll(labels, -1, axis), np.roll(cells, -1, axis + 1)
        edge |= (near == labels) & (far != cells).any(0)
    color[edge & body] = color[edge & body] * 0.55 + 0.45
    return np.asarray(np.clip(color * 255, 0, 255).round(), np.uint8)


def atlas_picture(
    atlas: Tensor, weight: Tensor, side: int = 64, min_weight: float = 1e-3
) -> Pixels:
    """The 4 x 6 mosaic of a body atlas, small, with unseen texels in gray.

    atlas: (24, 3, S, S) in [0, 1]; weight: (24, S, S); side: pixels per tile of the picture. Part
    i's tile is at column (i - 1) // 6, row (i - 1) % 6. A pixel of the picture is the mean of the
    seen texels under it, so a sparse atlas keeps its colors.
    """
    seen = (weight.detach().cpu() > min_weight).float()[:, None]
    tiles = torch.cat((atlas.detach().float().cpu() * seen, seen), 1)
    # The share of a cell that is seen, and the mean color times that share.
    sums = F.adaptive_avg_pool2d(tiles, side).permute(0, 2, 3, 1).double().numpy()
    count = sums[..., 3:]
    empty = np.array(_EMPTY) / 255
    color = np.where(count > 0, sums[..., :3] / np.maximum(count, 1e-9), empty)
    mosaic = color.reshape(4, 6, side, side, 3).transpose(1, 2, 0, 3, 4).reshape(6 * side, -1, 3)
    mosaic = np.clip(mosaic * 255, 0, 255).round().astype(np.uint8)
    mosaic[::side] = mosaic[:, ::side] = _PAPER  # a hairline between tiles
    return mosaic


@dataclass(frozen=True)
class Card:
    """One picture of a panel; step is the arrow's word that leads to it, "" for none."""

    picture: Pixels
    title: str
    caption: str = ""
    step: str = ""


def _fit(picture: Pixels, width: int, height: int) -> Image.Image:
    """Crop to the card's shape about the middle, then resize to it."""
    rows, columns = picture.shape[:2]
    keep = (min(columns, round(rows * width / height)), min(rows, round(columns * height / width)))
    left, top = (columns - keep[0]) // 2, (rows - keep[1]) // 2
    image = Image.fromarray(picture[top : top + keep[1], left : left + keep[0]])
    return image.resize((width, height), Image.Resampling.LANCZOS)


def compose(cards: list[Card], footer: str = "", height: int = 384) -> Pixels:
    """Set cards of height x 2/3 height pixels in a row, with titles, captions and arrows."""
    width = height * 2 // 3
    gap, margin = 22, 26
    title = ImageFont.load_default(25)
    small = ImageFont.load_default(19)
    plain_gap = [bool(card.step) for card in cards]
    arrow = 74
    total = 2 * margin + width * len(cards)
    total += sum((arrow if stepped else gap) for stepped in plain_gap[1:])
    page = Image.new("RGB", (total, margin + 38 + height + 44 + (36 if footer else 4)), _PAPER)
    draw = ImageDraw.Draw(page)
    left, top = margin, margin + 34
    for i, card in enumerate(cards):
        if i:
            if card.step:
                middle, y = left + arrow // 2, top + height // 2
                draw.text((middle, y - 12), card.step, _INK, small, anchor="mb")
                draw.line((middle - 24, y, middle + 18, y), _INK, 2)
                draw.polygon([(middle + 26, y), (middle + 16, y - 6), (middle + 16, y + 6)], _INK)
            left += arrow if card.step else gap
        draw.text((left + 2, top - 10), card.title, _INK, title, anchor="ls")
        page.paste(_fit(card.picture, width, height), (left, top))
        draw.rectangle((left - 1, top - 1, left + width, top + height), outline=(214, 217, 223))
        draw.text((left + 2, top + height + 10), card.caption, _FAINT, small, anchor="lt")
        left += width
    if footer:
        draw.text((margin + 2, page.height - 20), footer, _FAINT, small, anchor="ls")
    return np.asarray(page)


def grid(rows: list[list[Card]], footer: str = "") -> Pixels:
    """Set cards in rows at their own size, title and caption above and below; arrows are not drawn.

    A column is as wide as its widest card and a row as high as its highest; words keep to their
    column only if they are short.
    """
    gap, margin, above, below = 22, 26, 34, 34
    columns = max(len(row) for row in rows)
    widths = [
        max(row[i].picture.shape[1] for row in rows if i < len(row)) + gap for i in range(columns)
    ]
    heights = [max(card.picture.shape[0] for card in row) + above + below for row in rows]
    title = ImageFont.load_default(22)
    small = ImageFont.load_default(17)
    width = 2 * margin + sum(widths) - gap
    page = Image.new("RGB", (width, sum(heights) + 2 * margin + (20 if footer else -14)), _PAPER)
    draw = ImageDraw.Draw(page)
    top = margin
    for row, high in zip(rows, heights, strict=True):
        left = margin
        for card, wide in zip(row, widths):
            H, W = card.picture.shape[:2]
            draw.text((left + 1, top + above - 9), card.title, _INK, title, anchor="ls")
            page.paste(Image.fromarray(card.picture), (left, top + above))
            box = (left - 1, top + above - 1, left + W, top + above + H)
            draw.rectangle(box, outline=(214, 217, 223))
            draw.text((left + 1, top + above + H + 8), card.caption, _FAINT, small, anchor="lt")
            left += wide
        top += high
    if footer:
        draw.text((margin + 1, page.height - 20), footer, _FAINT, small, anchor="ls")
    return np.asarray(page)
