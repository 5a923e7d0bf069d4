# SPDX-License-Identifier: Apache-2.0
"""Sample sheets: a row per pair, a titled column per picture."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.utils.data import default_collate

from pose_kernels.files import open_folder, write_files

from ..batch import Batch, to_bytes
from ..data import PairData

_PAPER, _INK = (252, 252, 250), (38, 42, 52)
_GAP, _MARGIN = 4, 10
_LEAST = 96  # smaller pictures are enlarged by whole numbers up to about this, to be seen at all


def draw(columns: Mapping[str, Tensor], footer: str = "") -> NDArray[np.uint8]:
    """The sheet as (rows, columns, 3) pixels. columns: title -> (N, 3, H, W) in [-1, 1]."""
    pictures = {title: to_bytes(image).cpu() for title, image in columns.items()}
    N, _, H, W = next(iter(pictures.values())).shape
    times = max(1, -(-_LEAST // W))
    high, wide = H * times, W * times
    font = ImageFont.load_default(13)
    lines = _wrap(footer, font, len(pictures) * (wide + _GAP))
    top = _MARGIN + 20
    bottom = 6 + 17 * len(lines) + _MARGIN
    width = 2 * _MARGIN + len(pictures) * (wide + _GAP) - _GAP
    page = Image.new("RGB", (width, top + N * (high + _GAP) - _GAP + bottom), _PAPER)
    pen = ImageDraw.Draw(page)
    for column, (title, images) in enumerate(pictures.items()):
        left = _MARGIN + column * (wide + _GAP)
        pen.text((left, top - 5), _shortened(title, font, wide), _INK, font, anchor="ls")
        for row, image in enumerate(images):
            cell = Image.fromarray(image.permute(1, 2, 0).numpy())
            cell = cell.resize((wide, high), Image.Resampling.NEAREST)
            page.paste(cell, (left, top + row * (high + _GAP)))
    for number, line in enumerate(lines):
        pen.text((_MARGIN, page.height - bottom + 6 + 17 * number), line, _INK, font, anchor="lt")
    return np.asarray(page)


def _shortened(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, wide: int) -> str:
    while len(text) > 1 and font.getlength(text) > wide:
        text = text[:-1]
    return text


def _wrap(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, wide: int) -> list[str]:
    lines: list[str] = []
    for word in text.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= wide:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def save(picture: NDArray[np.uint8], path: Path) -> None:
    """Write a PNG, whole or not at all. Raises OSError with one line."""
    open_folder(path.parent)
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    write_files({path: buffer.getvalue()})


def collect(pairs: PairData, indexes: list[int], epoch: int = 0) -> Batch:
    """Some pairs of a data set as one batch."""
    pairs.set_epoch(epoch)
    batch: Batch = default_collate([pairs[index] for index in indexes])
    return batch
