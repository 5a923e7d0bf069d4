# SPDX-License-Identifier: Apache-2.0
"""The people as triangle meshes: charts on every face, and skinning that poses them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from .body import (
    LOWER_ARM,
    SKULL,
    SPINE,
    UPPER_ARM,
    UPPER_LEG,
    Array,
    Tube,
    heights,
    smooth,
    tubes,
)
from .pose import HIP_WIDTH, Pose, bones, joints_of
from .shape import Shape
from .volume import Volume

Index = NDArray[np.int64]


@dataclass(frozen=True)
class Topology:
    """Faces (F, 3), counterclockwise from outside, the same for all bodies; the part (F,) 1..24 of
    each and (u, v) at its corners (F, 3, 2); the tube (F,) it belongs to, in the order of
    `body.tubes`. Every tube is a closed surface of its own; where they meet they run into each
    other."""

    faces: Index
    part: NDArray[np.uint8]
    uv: NDArray[np.float32]
    tube: Index


@dataclass(frozen=True)
class Body:
    """One person's surface, ready to be posed.

    Linear blend skinning: a vertex is the sum, over the bones that move it, of
    `weight (R place + t)`, its place being in the frame of the bone; normals alike.

    bones: names, and how many rows each has. place, normal: rows of (weight * place, weight) (M, 4)
    and of (weight * normal, 0), bone after bone. pick: which vertices get a first, a second and a
    third row, and which row that is.
    """

    shape: Shape
    bones: tuple[tuple[str, int], ...]
    place: NDArray[np.float32]
    normal: NDArray[np.float32]
    pick: tuple[tuple[NDArray[np.int32], NDArray[np.int32]], ...]

    def posed(self, poses: Sequence[Pose]) -> tuple[Array, Array, Array]:
        """Vertices (P, V, 3), unit normals (P, V, 3) and the 19 joints (P, 19, 3), in meters, in
        the frame of `pose.bones`."""
        placed = [bones(pose, self.shape) for pose in poses]
        rows = np.empty((2, len(placed), len(self.place), 3))
        start = 0
        for bone, count in self.bones:
            own = slice(start, start := start + count)
            for n, b in enumerate(placed):
                matrix = np.vstack((b[bone][0].T, b[bone][1]))
                rows[0, n, own] = self.place[own] @ matrix
                rows[1, n, own] = self.normal[own] @ matrix
        both = rows[:, :, self.pick[0][1]]
        for vertex, row in self.pick[1:]:
            both[:, :, vertex] += rows[:, :, row]
        vertices, normals = both
        normals /= np.maximum(np.sqrt(np.einsum("pvc,pvc->pv", normals, normals)), 1e-12)[..., None]
        joints = np.stack([joints_of(b, self.shape) for b in placed])
        return vertices * self.shape.height, normals, joints


@dataclass(frozen=True)
class _Grid:
    """Rings of a tube of the reference body: heights (R,), first and last of them the poles, and
    half-width, half-depth and offset (R, 3) there; v at the rings of each section; angles (A,) in
    degrees, and where they point to on the tube's outline (A,)."""

    y: Array
    profile: Array
    sections: tuple[tuple[int, int, Array], ...]  # first ring, last ring, v of these
    angle: Array
    sine: Array
    cosine: Array


@lru_cache(maxsize=64)
def _grid(tube: Tube) -> _Grid:
    y: list[float] = []
    sections = []
    for index, section in enumerate(tube.sections):
        upper = tube.sections[index - 1].bottom if index else tube.top
        t = np.linspace(0, 1, section.rings)
        first, last = index == 0, index == len(tube.sections) - 1
        # Rings gather where an end is rounded, by the cosine of a quarter or half a turn.
        if first and last:
            t = (1 - np.cos(np.pi * t)) / 2
        elif first:
            t = (t + 1 - np.cos(np.pi / 2 * t)) / 2
        elif last:
            t = (t + np.sin(np.pi / 2 * t)) / 2
        own = upper + (section.bottom - upper) * t
        start = len(y) - (not first)
        y.extend(own if first else own[1:])
        known, v = heights(tube, index)
        sections.append((start, len(y) - 1, np.interp(own, known, v)))
    chart = tube.sections[0].charts[0]
    angle = chart.center - chart.span / 2 + 360.0 * np.arange(tube.around) / tube.around
    sine, cosine = np.sin(np.radians(angle)), np.cos(np.radians(angle))
    away = (np.abs(sine) ** tube.power + np.abs(cosine) ** tube.power) ** (-1 / tube.power)
    rings = np.array(y)
    profile = tube.profile(rings)
    return _Grid(rings, profile, tuple(sections), angle, away * sine, away * cosine)


def _columns(tube: Tube, section: int, angle: Array) -> tuple[Index, Array]:
    """Part (A,) and u at both sides (A, 2) of the strips between neighboring angles."""
    step = 360.0 / tube.around
    part, u = np.zeros(tube.around, np.int64), np.zeros((tube.around, 2))
    for chart in tube.sections[section].charts:
        away = (angle + step / 2 - chart.center + 180.0) % 360.0 - 180.0
        inside = np.abs(away) < chart.span / 2
        edges = np.stack((away - step / 2, away + step / 2), -1) / chart.span + 0.5
        part[inside] = chart.part
        u[inside] = chart.u[0] + (chart.u[1] - chart.u[0]) * np.clip(edges[inside], 0, 1)
    return part, u


@lru_cache(maxsize=1)
def topology() -> Topology:
    """Of every body."""
    faces, parts, uvs, owner = [], [], [], []
    base = 0
    for number, tube in enumerate(tubes()):
        grid, A = _grid(tube), tube.around
        R = len(grid.y)
        this, following = np.arange(A), (np.arange(A) + 1) % A
        # Vertices: the upper pole, rings 1 .. R - 2, the lower pole.
        lower_pole = 1 + (R - 2) * A
        for index, (first, last, v) in enumerate(grid.sections):
            part, u = _columns(tube, index, grid.angle)
            for ring in range(first, last):
                upper, lower = v[ring - first], v[ring - first + 1]
                middle = u.mean(1)
                a, b = 1 + (ring - 1) * A + this, 1 + (ring - 1) * A + following
                c, d = a + A, b + A
                if ring == 0:
                    corners = [(0 * c, c, d)]
                    places = [((middle, upper), (u[:, 0], lower), (u[:, 1], lower))]
                elif ring == R - 2:
                    corners = [(a, 0 * a + lower_pole, b)]
                    places = [((u[:, 0], upper), (middle, lower), (u[:, 1], upper))]
                else:
                    corners = [(a, c, d), (a, d, b)]
                    places = [
                        ((u[:, 0], upper), (u[:, 0], lower), (u[:, 1], lower)),
                        ((u[:, 0], upper), (u[:, 1], lower), (u[:, 1], upper)),
                    ]
                for corner, place in zip(corners, places):
                    faces.append(np.stack(corner, -1) + base)
                    uvs.append(np.stack([np.stack(np.broadcast_arrays(*p), -1) for p in place], 1))
                    parts.append(part)
                    owner.append(np.full(A, number))
        base += lower_pole + 1
    return Topology(
        np.concatenate(faces),
        np.concatenate(parts).astype(np.uint8),
        np.concatenate(uvs).astype(np.float32),
        np.concatenate(owner),
    )


def _surface(tube: Tube, shape: Shape, volume: Volume) -> tuple[Array, Array]:
    """Vertices (V, 3) of a tube of a body, in the tube's frame, and heights (V,) on the
    reference."""
    grid = _grid(tube)
    y = grid.y
    side, _, kind = tube.name.rpartition("_")
    width, depth, offset = grid.profile.T
    height, out, middle = y, np.zeros((len(y), 1)), np.zeros(len(y))
    if kind == "torso":
        factor = shape.trunk(y)
        out = volume.on_torso(y, grid.angle)
        width, depth = width * factor, depth * (0.35 + 0.65 * factor)
        height = y * shape.torso
        if shape.bust:
            turned = (grid.angle + 180.0) % 360.0 - 180.0
            bump = np.exp(-(((np.abs(turned) - 33.0) / 27.0) ** 2))
            out = out + shape.bust * np.exp(-(((y - 0.36) / 0.075) ** 2))[:, None] * bump
    elif kind == "arm":
        width, depth, out = shape.limbs * width, shape.limbs * depth, volume.on_arm(y)[:, None]
        height = y * shape.arms
    elif kind == "leg":
        width, depth, out = shape.limbs * width, shape.limbs * depth, volume.on_leg(y)[:, None]
        height = y * shape.legs
        # Half of a skirt: an oval that reaches past the body's middle, into the other half.
        share = volume.skirt(y)
        hip = HIP_WIDTH * shape.hips
        broad = 0.176 * shape.hips + 0.008 - volume.flare * np.minimum(y, 0.0)
        deep = 0.112 * shape.hips + 0.008 - 0.9 * volume.flare * np.minimum(y, 0.0)
        width, depth = width + share * (0.62 * broad - width), depth + share * (deep - depth)
        middle = share * (0.38 * broad - hip) * (1.0 if side == "left" else -1.0)
    elif kind == "head":
        out = volume.on_head(y, grid.angle)
        height = y + volume.crown * smooth(y, 0.19, 0.278)
        width, depth, offset, height = (shape.head * x for x in (width, depth, offset, height))
    elif kind == "ear":
        width, depth, offset, height = (shape.head * x for x in (width, depth, offset, height))
    out = out * np.clip(width / (0.5 * width.max()), 0, 1)[:, None]  # nothing at the poles
    x = (width[:, None] + out) * grid.sine + middle[:, None]
    z = (depth[:, None] + out) * grid.cosine + offset[:, None]
    rings = np.stack((x, np.broadcast_to(height[:, None], x.shape), z), -1)
    inner = rings[1:-1].reshape(-1, 3)
    poles = [np.array([[middle[i], height[i], offset[i]]]) for i in (0, -1)]
    at = np.concatenate((y[:1], np.repeat(y[1:-1], tube.around), y[-1:]))
    return np.concatenate((poles[0], inner, poles[1])), at


def _influences(
    tube: Tube, shape: Shape, volume: Volume, point: Array, y: Array
) -> list[tuple[str, Array, Array]]:
    """(bone, weight (V,), the bone's origin in the tube's frame) of a tube's vertices."""
    side, _, kind = tube.name.rpartition("_")
    if kind == "torso":
        chest = smooth(y, 0.0, 0.26)
        found = [("pelvis", 1 - chest, np.zeros(3))]
        across = smooth(np.abs(point[:, 0]), 0.06, 0.17) * smooth(y, 0.33, 0.47) * chest
        for name, sign in (("left", 1.0), ("right", -1.0)):
            inner = np.array([0.03 * sign, 0.47 * shape.torso, 0.0])
            found.append((f"{name}_clavicle", across * (point[:, 0] * sign > 0), inner))
        found.append(("chest", chest - across, np.array([0.0, SPINE, 0.0])))
        return found
    if kind == "head":
        skull = smooth(y, -0.045, 0.045)
        neck = np.array([0.0, SPINE - SKULL * shape.torso, 0.004])
        return [("chest", 1 - skull, neck), ("head", skull, np.zeros(3))]
    if kind == "arm":
        lower = smooth(y, -UPPER_ARM + 0.05, -UPPER_ARM - 0.05)
        elbow = np.array([0.0, -UPPER_ARM * shape.arms, 0.0])
        hand = 0.5 * smooth(y, -UPPER_ARM - LOWER_ARM + 0.04, -UPPER_ARM - LOWER_ARM - 0.01)
        wrist = np.array([0.0, -(UPPER_ARM + LOWER_ARM) * shape.arms, 0.0])
        return [
            (f"{side}_upper_arm", 1 - lower, np.zeros(3)),
            (f"{side}_lower_arm", lower - hand, elbow),
            (f"{side}_hand", hand, wrist),
        ]
    if kind == "leg":
        lower = smooth(y, -UPPER_LEG + 0.065, -UPPER_LEG - 0.065)
        knee = np.array([0.0, -UPPER_LEG * shape.legs, 0.0])
        other, sign = ("right", 1.0) if side == "left" else ("left", -1.0)
        across = np.array([-2 * HIP_WIDTH * sign * shape.hips, 0.0, 0.0])
        outside = smooth(sign * point[:, 0] + HIP_WIDTH * shape.hips, -0.10, 0.20)
        shared = 0.5 * volume.skirt(y) * smooth(y, 0.02, -0.12) * (1 - outside)
        return [
            (f"{side}_upper_leg", (1 - shared) * (1 - lower), np.zeros(3)),
            (f"{side}_lower_leg", (1 - shared) * lower, knee),
            (f"{other}_upper_leg", shared, across),
        ]
    return [(tube.name, np.ones(len(y)), np.zeros(3))]


def _normals(vertices: Array, faces: Index) -> Array:
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    (x, y, z), (p, q, r) = (b - a).T, (c - a).T
    weighted = np.stack((y * r - z * q, z * p - x * r, x * q - y * p), 1)  # twice the face's area
    corners, repeated, count = faces.ravel(), np.repeat(weighted, 3, axis=0), len(vertices)
    normal = np.stack([np.bincount(corners, repeated[:, i], count) for i in range(3)], 1)
    return normal / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)


@lru_cache(maxsize=8)
def body(shape: Shape, volume: Volume | None = None) -> Body:
    """The surface of a body in its clothes, all tubes one after the other."""
    volume = volume or Volume()
    surfaces = [_surface(tube, shape, volume) for tube in tubes()]
    normals = _normals(np.concatenate([point for point, _ in surfaces]), topology().faces)
    found: dict[str, list[tuple[Index, Array, Array]]] = {}
    base = 0
    for tube, (point, y) in zip(tubes(), surfaces):
        for bone, weight, origin in _influences(tube, shape, volume, point, y):
            rows = np.nonzero(weight > 0)[0]
            own = weight[rows, None]
            place = own * np.column_stack((point[rows] - origin, np.ones(len(rows))))
            turned = own * np.column_stack((normals[rows + base], np.zeros(len(rows))))
            found.setdefault(bone, []).append((rows + base, place, turned))
        base += len(point)
    vertex, place, normal = (
        np.concatenate([group[i] for groups in found.values() for group in groups])
        for i in range(3)
    )
    counts = tuple((bone, sum(len(g[0]) for g in groups)) for bone, groups in found.items())
    order = np.argsort(vertex, kind="stable")
    nth = np.arange(len(order)) - np.searchsorted(vertex[order], vertex[order])  # 0, 0, 1, 0, ...
    pick = [order[nth == n] for n in range(int(nth.max()) + 1)]
    pairs = tuple((vertex[rows].astype(np.int32), rows.astype(np.int32)) for rows in pick)
    return Body(shape, counts, place.astype(np.float32), normal.astype(np.float32), pairs)
