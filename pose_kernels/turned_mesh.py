# SPDX-License-Identifier: Apache-2.0
"""Turn a mesh about its vertical axis and find the appearance flow between the two views.

`turned_flow` is the whole job on tensors; `commands/mesh_flow.py` the same on a Wavefront
OBJ file, with pictures. Colors are fixed to the vertices, so that what the flow carries
from one view to the other can be held against what the other view really shows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .appearance_flow import mesh_flow
from .ops.flow_warp import flow_warp
from .ops.mesh_raster import mesh_raster

SIDES = (16, 4096)  # of --size
MARGIN = 0.06  # of the frame, left free on each side


@dataclass(frozen=True)
class TurnedFlow:
    """What :func:`turned_flow` returns: pictures (3, H, W) in [0, 1], maps without a batch axis."""

    source: Tensor  # (3, H, W) colors of the mesh as it stands; 0 in the background
    target: Tensor  # (3, H, W) of the turned mesh
    source_mask: Tensor  # (H, W) bool
    flow: Tensor  # (2, H, W) pixels, on the target
    visibility: Tensor  # (H, W) uint8: 0 visible, 1 occluded, 2 background
    warped: Tensor  # (3, H, W) the source under the flow; 0 where not visible
    error: Tensor  # (H, W) mean absolute difference to the target; 0 where not visible
    faces: int

    def numbers(self) -> dict[str, float | int]:
        """Shares of the mesh's pixels, lengths of the flow on them, errors where visible."""
        shown, visible = self.visibility != 2, self.visibility == 0
        length = self.flow.norm(dim=0)[shown]
        error = self.error[visible]
        return {
            "faces": self.faces,
            "pixels": int(shown.sum()),
            "visible": float(visible.sum() / shown.sum().clamp(min=1)),
            "mean_flow": float(length.mean()) if len(length) else 0.0,
            "max_flow": float(length.max()) if len(length) else 0.0,
            "mean_error": float(error.mean()) if len(error) else 0.0,
            "close": float((error < 0.05).float().mean()) if len(error) else 0.0,
        }


@torch.no_grad()
def turned_flow(
    vertices: Tensor, faces: Tensor, turn: float, size: int, *, visibility: str = "face"
) -> TurnedFlow:
    """Both views, the flow between them and what it carries over.

    Args:
        vertices: (V, 3), y up, as in OBJ files.
        faces: (F, 3).
        turn: degrees about the vertical axis, to the viewer's right where positive: the target.
        size: pixels of a side of the square frame.
        visibility: as for :func:`mesh_flow`.

    Raises:
        ValueError: vertices without extent.
    """
    poses = place_views(vertices, (0.0, turn), size)  # (2, V, 3)
    color = vertex_colors(vertices, faces)
    face, bary = mesh_raster(poses, faces, (size, size))
    pictures = _colors_at(color, faces, face, bary)
    flow, seen = mesh_flow(poses[1:], poses[:1], faces, (size, size), visibility=visibility)
    mask = face >= 0
    visible = seen[0] == 0
    warped = _sample(pictures[:1], mask[:1], flow)[0] * visible
    error = (warped - pictures[1]).abs().mean(0) * visible
    return TurnedFlow(
        pictures[0], pictures[1], mask[0], flow[0], seen[0], warped, error, faces.shape[0]
    )


def place_views(vertices: Tensor, turns: tuple[float, ...], size: int) -> Tensor:
    """(T, V, 3) float32 pixels and depths of a mesh turned about its vertical axis.

    The viewer looks along -z: x to the right, y up, z towards the viewer become x, -y, -z. The axis
    runs through the middle of the box of the vertices. The projection is orthographic; one scale,
    common to all views, leaves ``MARGIN`` of the frame free around them.
    """
    middle = (vertices.amin(0) + vertices.amax(0)) / 2
    x, y, z = (vertices.to(torch.float64) - middle).unbind(1)
    views = []
    for degrees in turns:
        angle = math.radians(degrees)
        across = x * math.cos(angle) + z * math.sin(angle)
        towards = z * math.cos(angle) - x * math.sin(angle)
        views.append(torch.stack([across, -y, -towards], 1))
    poses = torch.stack(views)
    reach = float(poses[..., :2].abs().max())
    if not reach > 0:
        raise ValueError("the vertices of the mesh must spread over some length")
    half = (size - 1) / 2
    poses = poses * (half * (1 - 2 * MARGIN) / reach)
    poses[..., :2] += half
    return poses.to(torch.float32)


def vertex_colors(vertices: Tensor, faces: Tensor) -> Tensor:
    """(V, 3) in [0, 1]: bands of two hues, lit from the upper left on the mesh as it stands."""
    vertices = vertices.to(torch.float64)
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    weighted = torch.linalg.cross(b - a, c - a)  # as long as twice the face's area
    normal = torch.zeros_like(vertices)
    for i in range(3):
        normal.index_add_(0, faces[:, i], weighted)
    normal = torch.nn.functional.normalize(normal, dim=1)
    light = torch.nn.functional.normalize(normal.new_tensor([-0.5, 0.6, 0.75]), dim=0)
    shade = 0.42 + 0.5 * (normal @ light).clamp(min=0) + 0.08 * normal[:, 1]
    low, high = vertices.amin(0), vertices.amax(0)
    place = (vertices - low) / (high - low).max().clamp(min=1e-30)
    bands = 0.5 + 0.5 * torch.sin(2 * math.pi * 9 * place[:, 1])
    warm, cool = normal.new_tensor([0.98, 0.72, 0.50]), normal.new_tensor([0.46, 0.66, 0.92])
    hue = warm + bands[:, None] * (cool - warm)
    return (shade[:, None] * hue).clamp(0, 1).to(torch.float32)


def _colors_at(color: Tensor, faces: Tensor, face: Tensor, bary: Tensor) -> Tensor:
    """(N, 3, H, W) of (V, 3) colors; 0 in the background."""
    corner = color[faces[face.clamp(min=0).long()]]  # (N, H, W, 3 corners, 3)
    return torch.einsum("nkhw,nhwkc->nchw", bary, corner)  # bary is 0 where there is no face


def _sample(picture: Tensor, mask: Tensor, flow: Tensor) -> Tensor:
    """The picture at p + flow(p), bilinear; the rim of the mesh mixes with no background."""
    both = torch.cat([picture, mask[:, None].to(picture.dtype)], 1)
    got = flow_warp(both, flow)
    return got[:, :3] / got[:, 3:].clamp(min=1e-6)
