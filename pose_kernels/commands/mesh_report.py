# SPDX-License-Identifier: Apache-2.0
"""What the flow of a turned mesh leaves behind: pictures and mesh_flow.json."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import __version__, io, panel
from ..turned_mesh import TurnedFlow

FILES = (
    "source.png",
    "target.png",
    "flow.png",
    "visibility.png",
    "warped.png",
    "mesh_flow.png",
    "mesh_flow.json",
)
_BACKDROP = 0.955
_CARD = 256  # pixels of a side in mesh_flow.png, at least
# Visible, occluded, background.
_SEEN = ((0.30, 0.62, 0.50), (0.90, 0.52, 0.30), (_BACKDROP, _BACKDROP, _BACKDROP))
_HIDDEN = (0.80, 0.80, 0.83)  # pixels of the target that the source does not show


def files(result: TurnedFlow, facts: dict[str, Any]) -> dict[str, bytes]:
    """The contents of every file by name, in the order of ``FILES``; facts open mesh_flow.json."""
    shown, visible = result.visibility != 2, result.visibility == 0
    full = full_color(result.flow, shown)
    pictures = {
        "source.png": _on_backdrop(result.source, result.source_mask),
        "target.png": _on_backdrop(result.target, shown),
        "flow.png": _on_backdrop(flow_wheel(result.flow, full), shown),
        "visibility.png": result.flow.new_tensor(_SEEN)[result.visibility.long()].permute(2, 0, 1),
        "warped.png": _warped(result, shown, visible),
    }
    pixels = {name: panel.to_pixels(picture) for name, picture in pictures.items()}
    pixels["mesh_flow.png"] = _page(result, pixels, full)
    contents = {name: io.encode_picture(name, picture) for name, picture in pixels.items()}
    report = {
        "pose_kernels": __version__,
        "torch": torch.__version__,
        "device": str(result.flow.device),
        **facts,
        **result.numbers(),
    }
    contents["mesh_flow.json"] = (json.dumps(report, indent=2) + "\n").encode()
    return contents


def summary(result: TurnedFlow) -> str:
    """Lines for the terminal."""
    found = result.numbers()
    return (
        f"{found['pixels']} pixels of the mesh, {100 * found['visible']:.1f} % of them visible in "
        f"the source\nflow: {found['mean_flow']:.2f} pixels on average, "
        f"{found['max_flow']:.2f} at most\n"
        f"color error where visible: {found['mean_error']:.4f} on average, below 0.05 on "
        f"{100 * found['close']:.1f} %"
    )


def full_color(flow: Tensor, shown: Tensor) -> float:
    """A length that 5 % of the pixels (H, W) shown exceed."""
    length = flow.norm(dim=0)[shown]
    return float(length.sort().values[int(0.95 * (len(length) - 1))]) if len(length) else 0.0


def flow_wheel(flow: Tensor, full: float) -> Tensor:
    """(3, H, W) of a flow (2, H, W): the hue is its direction, white is none, full color is full.

    Right is red; on the screen clockwise, as y points down, follow yellow, green (down), cyan
    (left), blue and magenta.
    """
    angle = torch.atan2(flow[1], flow[0]) / (2 * math.pi)
    strength = flow.norm(dim=0) / max(full, 1e-6)
    # The hue circle as three shifted ramps.
    ramps = [((angle + shift).remainder(1) * 6 - 3).abs() - 1 for shift in (0.0, 2 / 3, 1 / 3)]
    hue = torch.stack(ramps).clamp(0, 1)
    return 1 - strength.clamp(0, 1) * (1 - hue)


def _on_backdrop(picture: Tensor, mask: Tensor) -> Tensor:
    return picture.where(mask, _BACKDROP)


def _warped(result: TurnedFlow, shown: Tensor, visible: Tensor) -> Tensor:
    hidden = result.warped.new_tensor(_HIDDEN)[:, None, None]
    return _on_backdrop(torch.where(visible, result.warped, hidden), shown)


def _wheel(side: int) -> panel.Pixels:
    """The key of the colors: the flow of a disc away from its middle."""
    axis = torch.linspace(-1, 1, side)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    flow = torch.stack([x, y])
    return panel.to_pixels(_on_backdrop(flow_wheel(flow, 1.0), flow.norm(dim=0) <= 1))


def _page(result: TurnedFlow, pixels: dict[str, panel.Pixels], full: float) -> panel.Pixels:
    found = result.numbers()
    shown = result.visibility != 2
    error = _on_backdrop((1 - 4 * result.error).clamp(min=0).expand(3, -1, -1), shown)
    pixels = {**pixels, "error": panel.to_pixels(error)}
    repeat = max(1, -(-_CARD // result.flow.shape[-1]))
    large = {name: p.repeat(repeat, 0).repeat(repeat, 1) for name, p in pixels.items()}
    side = large["flow.png"].shape[0]
    flow = large["flow.png"].copy()
    key = _wheel(max(24, side // 6))
    flow[-key.shape[0] :, -key.shape[1] :] = np.minimum(flow[-key.shape[0] :, -key.shape[1] :], key)
    rows = [
        [
            panel.Card(large["source.png"], "source", "the mesh as it stands"),
            panel.Card(large["target.png"], "target", "turned"),
            panel.Card(flow, "flow", f"key: {full:.1f} px at its rim"),
        ],
        [
            panel.Card(large["warped.png"], "source under the flow", "gray: not visible there"),
            panel.Card(
                large["error"], "difference", f"mean {found['mean_error']:.4f}; black at 0.25"
            ),
            panel.Card(
                large["visibility.png"],
                "visibility",
                f"green: {100 * found['visible']:.1f} % visible",
            ),
        ],
    ]
    return panel.grid(rows)
