# SPDX-License-Identifier: Apache-2.0
"""From meters to pixels, and the light."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .body import Array
from .pose import rotation_about

FIELD_OF_VIEW = 2.06  # meters from the lower to the upper edge of a picture at zoom 1
GROUND_MARGIN = 0.12  # meters between the soles and the lower edge of the standard camera
MIDDLE = 0.9  # meters above the ground that the camera turns about


@dataclass(frozen=True)
class Camera:
    """Where the person is seen from.

    yaw, pitch, roll: degrees; yaw walks around the person, toward the person's left, pitch looks
    down, roll turns the picture clockwise. distance: meters, infinite for an orthographic view.
    zoom: 1 shows `FIELD_OF_VIEW` meters between the lower and the upper edge at the person. at:
    where the point `MIDDLE` meters above the ground appears, (x, y) as shares of the picture's
    width and height.
    """

    yaw: float = 0.0
    pitch: float = 7.0
    roll: float = 0.0
    distance: float = float("inf")
    zoom: float = 1.0
    at: tuple[float, float] = (0.5, 1 - (GROUND_MARGIN + MIDDLE * 0.9925) / FIELD_OF_VIEW)

    def axes(self) -> Array:
        """(3, 3): rows are the directions right, up and toward the viewer, in the world."""
        tilted = rotation_about(0, self.pitch) @ rotation_about(1, -self.yaw)
        axes: Array = rotation_about(2, -self.roll) @ tilted
        return axes

    def project(self, points: Array, height: int, width: int) -> Array:
        """Points (..., 3) in meters to x and y in pixels and a depth, of which less is nearer.

        The depth is linear along a plane's picture, also in perspective, and in meters about the
        person.
        """
        x, y, nearer, scale = self._seen(points, height)
        column = self.at[0] * (width - 1) + scale * x
        row = self.at[1] * (height - 1) - scale * y
        return np.stack((column, row, -nearer), -1)

    def skeleton(self, joints: Array, height: int, width: int) -> Array:
        """Joints (J, 3) in meters to the same pixels, and z in pixels, away from the viewer: the
        joints' middle is at half the picture's height."""
        placed = self.project(joints, height, width)
        z = -((joints - [0.0, MIDDLE, 0.0]) @ self.axes()[2]) * self.zoom * height / FIELD_OF_VIEW
        placed[..., 2] = z - (z.min() + z.max()) / 2 + height / 2
        return placed

    def _seen(self, points: Array, height: int) -> tuple[Array, Array, Array, float]:
        scale = self.zoom * height / FIELD_OF_VIEW
        x, y, z = np.moveaxis((points - [0.0, MIDDLE, 0.0]) @ self.axes().T, -1, 0)
        if np.isinf(self.distance):
            return x, y, z, scale
        larger = self.distance / (self.distance - z)
        return x * larger, y * larger, self.distance * (larger - 1), scale


@dataclass(frozen=True)
class Light:
    """Lambert's law: a surface is as bright as `ambient + diffuse max(0, normal . direction)`, per
    color. direction is in the viewer's axes: right, up, toward the viewer."""

    direction: tuple[float, float, float] = (-0.38, 0.50, 0.78)
    ambient: tuple[float, float, float] = (0.64, 0.64, 0.64)
    diffuse: tuple[float, float, float] = (0.36, 0.36, 0.36)


EVEN = Light(ambient=(1.0, 1.0, 1.0), diffuse=(0.0, 0.0, 0.0))  # colors as they are in the atlas
