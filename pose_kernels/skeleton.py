# SPDX-License-Identifier: Apache-2.0
"""From 3D joints to the ten body parts: capsules for the masks, point sets for the fits.

    source, target = body_parts(joints_a, "h36m17"), body_parts(joints_b, "h36m17")
    mask = pk.capsule_mask(*source.capsules, size=SIZE, num_parts=10)
    moved = pk.helmert_warp(volume, mask, part_transforms(source, target))

The parts, their thickness and their point sets are those of M. Knoche, I. Sarandi, B. Leibe,
"Reposing Humans by Warping 3D Features" (CVPR Workshops 2020), sections 3.2 and 3.3, and of its
published code. Plain PyTorch, differentiable, without a loop over samples. Which joints of a named
skeleton stand for which of the canonical ones: `skeleton_tables.py`.

Frame of every joint: a cube of 256 pixels, x right, y down, z away from the viewer
(`clip.place_in_frame` brings metric joints there). Voxel (i, j, k) = (x, y, z) is the node at pixel
(4 i, 4 j, 8 k), so the cube is 65 x 65 x 33 nodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .checks import describe, geometry_dtype
from .ops.helmert_fit import helmert_fit
from .skeleton_tables import JOINTS, Skeleton, skeleton_named

PARTS = (
    "torso",
    "head",
    "left upper arm",
    "left lower arm",
    "right upper arm",
    "right lower arm",
    "left upper leg",
    "left lower leg",
    "right upper leg",
    "right lower leg",
)
FRAME = 256  # side of the cube of pixels
VOXEL = (4.0, 4.0, 8.0)  # pixels from node to node along x, y, z
SIZE = (33, 65, 65)  # nodes along z, y, x: (D, H, W)

_TORSO = ("rhip", "lhip", "lsho", "rsho")
_HEAD = ("neck", "leye", "reye", "nose", "lear", "rear", "lsho", "rsho")
# (a, b, anchor) of each limb's fit, in the order of PARTS
_LIMBS = tuple(
    tuple(side + joint for joint in triple)
    for first, second in (
        (("sho", "elb", "wri"), ("wri", "elb", "sho")),
        (("hip", "kne", "ank"), ("ank", "kne", "hip")),
    )
    for side in "lr"
    for triple in (first, second)
)
_MOST_POINTS = 8  # of a part's point set

# Thickness (a diameter) of a part's capsules and of the ball at a limb's end, in torso diagonals.
_TORSO_THICK, _HEAD_THICK, _LIMB_THICK, _BALL_THICK = 0.3, 0.5, 0.2, 0.4
_PAD = 1.0  # voxels around every capsule: part of the published rasterizer
_FEWEST = (3, 3) + (2,) * 8  # points that determine each part's fit
_POINT = 1e-3  # pixels: a part whose points spread less is one point
_FLAT = 1e-3  # torso and head: points closer to a line than this share of their spread are one


class Capsules(NamedTuple):
    """The first four arguments of :func:`pose_kernels.capsule_mask`; K = 19."""

    start: Tensor  # (..., 19, 3) voxels (x, y, z); NaN where a joint that it needs is missing
    end: Tensor  # (..., 19, 3)
    radius: Tensor  # (..., 19, 3) half-axes, voxels
    part: Tensor  # (19,) int32, index into PARTS


class BodyParts(NamedTuple):
    """The ten parts of each pose."""

    start: Tensor  # (..., 19, 3) voxels (x, y, z); NaN where a joint that it needs is missing
    end: Tensor  # (..., 19, 3) voxels
    radius: Tensor  # (..., 19, 3) half-axes, voxels
    part: Tensor  # (19,) int32, index into PARTS
    points: Tensor  # (..., 10, 8, 3) pixels; 0 where the weight is 0
    weight: Tensor  # (..., 10, 8): 1, or 0 for a missing, undefined or unused point
    scale: Tensor  # (...) pixels, the torso diagonal that all thicknesses are measured in

    @property
    def capsules(self) -> Capsules:
        return Capsules(self.start, self.end, self.radius, self.part)


def body_parts(
    joints: Tensor,
    skeleton: str | Skeleton = "reposing19",
    *,
    scale: Tensor | None = None,
    voxel: Sequence[float] = VOXEL,
) -> BodyParts:
    """The ten parts' capsules, for the masks, and point sets, for the fits.

    With the torso diagonal ``s = max(|lsho - rhip|, |rsho - lhip|)`` a capsule of thickness T is
    swept along its segment by an ellipsoid of half-axes ``T / 2 / voxel + 1`` voxels:

    ========== ============================================= ========= ==================
    part       segments                                      thickness ball at the end
    ========== ============================================= ========= ==================
    torso      the 6 pairs of rhip, lhip, lsho, rsho         0.3 s
    head       2 c - a to a, c between the ears,             0.5 s
               a = 0.7 c + 0.3 neck
    upper arm  sho to elb                                    0.2 s
    lower arm  elb to wri' = wri + 0.2 (wri - elb)           0.2 s     0.4 s, at wri'
    upper leg  hip' = hip + 0.1 (hip - sho) to kne           0.2 s
    lower leg  kne to ank' = ank + 0.2 (ank - kne)           0.2 s     0.4 s, at ank'
    ========== ============================================= ========= ==================

    The capsules are in this order, a ball right after its segment. The point sets: torso rhip,
    lhip, lsho, rsho; head neck, leye, reye, nose, lear, rear, lsho, rsho; a limb its joints a, b
    and a third point ``b + |r| (bone x r) / |bone x r|`` with ``bone = b - a`` and
    ``r = anchor - b``: it turns with the plane in which the limb bends. (a, b, anchor) is
    (sho, elb, wri), (wri, elb, sho), (hip, kne, ank), (ank, kne, hip).

    What is missing leaves a gap, never a guess: a capsule that needs a missing joint is NaN, which
    :func:`pose_kernels.capsule_mask` takes as empty; a missing point has weight 0. In a straight
    limb, |bone x r| at most 1e-6 |bone| |r| (1e-5 in float32, where rounding alone bends a limb by
    1e-6), the third point has weight 0, so that a fit takes the smallest rotation between the
    bones; in a limb of length 0 all three have.

    Args:
        joints: (..., J, 3) pixels (x, y, z) of the 256-pixel cube, any leading axes; float16 and
            bfloat16 are computed in float32. A joint that is not finite is missing.
        skeleton: a name out of ``skeleton_tables.SKELETONS`` or a :class:`Skeleton` of your own.
        scale: (...) pixels in place of s, such as that of another pose of the same person.
        voxel: pixels from voxel to voxel along x, y, z.

    Returns:
        :class:`BodyParts` in the joints' dtype and device. Gradients flow from start, end, radius,
        points and scale to joints, finite everywhere and zero to missing joints.

    Raises:
        ValueError: an unknown skeleton, joints that do not fit it, a voxel that is not positive.

    >>> parts = body_parts(torch.rand(2, 19, 3) * 256, "reposing19")
    >>> parts.start.shape, parts.points.shape
    (torch.Size([2, 19, 3]), torch.Size([2, 10, 8, 3]))
    """
    body = skeleton_named(skeleton) if isinstance(skeleton, str) else skeleton
    pitch = _pitch(voxel, joints)
    if joints.dim() < 2 or joints.shape[-2:] != (len(body.joints), 3):
        raise ValueError(
            f"joints must be (..., {len(body.joints)}, 3) for skeleton {body.name!r}, "
            f"got {describe(joints)}"
        )
    where, known = body.canonical_joints(joints.to(geometry_dtype(joints.dtype)))
    pose = _Pose(where, known)
    s, sized = _torso_diagonal(pose)
    if scale is not None:
        if scale.shape != s.shape:
            raise ValueError(f"scale must be {tuple(s.shape)} as joints, got {describe(scale)}")
        sized = scale.isfinite()
        s = torch.where(sized, scale.to(s), 0)

    rows = _capsules(pose)
    start = torch.stack([row.start.where for row in rows], -2)
    end = torch.stack([row.end.where for row in rows], -2)
    found = torch.stack([row.start.known & row.end.known for row in rows], -1)[..., None]
    thickness = s.new_tensor([row.thickness for row in rows])
    half = s[..., None, None] * thickness[:, None] / 2 / pitch + _PAD
    points, weight = _point_sets(pose)
    nan = torch.full((), torch.nan, dtype=s.dtype, device=s.device)
    return BodyParts(
        torch.where(found, start / pitch, nan),
        torch.where(found, end / pitch, nan),
        torch.where(sized[..., None, None], half, nan),
        torch.tensor([row.part for row in rows], dtype=torch.int32, device=s.device),
        points,
        weight,
        torch.where(sized, s, nan),
    )


def part_transforms(
    source: BodyParts, target: BodyParts, *, voxel: Sequence[float] = VOXEL
) -> Tensor:
    """For each part the similarity that takes target voxels to source voxels: (..., 10, 3, 4).

    ``T = helmert_fit(target.points, source.points)`` in pixels, with the product of both weights,
    then ``A = S T S^-1`` with ``S = diag(1 / voxel)``: what ``pose_kernels.helmert_warp`` takes to
    pull the source's volume into the target's pose. In voxels A is no similarity, because a voxel
    is deeper than wide.

    A part that the common points do not determine gets a transform of NaN, with which it vanishes:
    a limb without both of its joints, a torso or head with fewer than three points or with points
    on one line, a part that has shrunk to a point.

    Args:
        source, target: of :func:`body_parts`, with the same leading axes.
        voxel: as given there.

    Returns:
        float32, or float64 for float64 joints. Gradients flow to the points of both; zero for a
        transform of NaN.

    >>> joints = torch.rand(19, 3, dtype=torch.float64) * 256
    >>> step = torch.tensor([8.0, 0.0, -16.0])  # 2 voxels to the right, 2 nearer
    >>> shift = part_transforms(body_parts(joints), body_parts(joints + step))
    >>> shift.shape, shift[0, :, 3].round(decimals=6) + 0
    (torch.Size([10, 3, 4]), tensor([-2.,  0.,  2.], dtype=torch.float64))
    """
    if source.points.shape != target.points.shape:
        raise ValueError(
            f"target must have the leading axes of source, points {tuple(source.points.shape)}, "
            f"got {tuple(target.points.shape)}"
        )
    pitch = _pitch(voxel, source.points)
    weight = source.weight * target.weight
    fewest = torch.tensor(_FEWEST, device=weight.device)
    sound = (weight > 0).sum(-1) >= fewest
    solid = torch.tensor([n > 2 for n in _FEWEST], device=weight.device)
    for points in (source.points.detach(), target.points.detach()):
        spread, thickness = _extent(points, weight)
        sound &= spread > _POINT
        sound &= ~solid | (thickness > _FLAT * spread)
    # An undetermined part is fitted to nothing, which is the identity and has no gradient.
    fit = helmert_fit(target.points, source.points, weight * sound[..., None])
    linear = fit[..., :3] * (pitch / pitch[:, None])
    moved = torch.cat((linear, fit[..., 3:] / pitch[:, None]), -1)
    nan = torch.full((), torch.nan, dtype=moved.dtype, device=moved.device)
    return torch.where(sound[..., None, None], moved, nan)


class _Point(NamedTuple):
    where: Tensor  # (..., 3), finite always
    known: Tensor  # (...) bool: False if it is missing, then `where` means nothing


class _Segment(NamedTuple):
    start: _Point  # pixels
    end: _Point
    thickness: float  # torso diagonals
    part: int


class _Pose:
    """Canonical joints by name, and arithmetic that keeps track of what is missing.

    Missing joints are 0 here, not NaN: a NaN would come back in the gradient of the others.
    """

    def __init__(self, where: Tensor, known: Tensor) -> None:
        self.where, self.known = where, known

    def __getitem__(self, name: str) -> _Point:
        i = JOINTS.index(name)
        return _Point(self.where[..., i, :], self.known[..., i])

    def beyond(self, start: str, end: str, share: float) -> _Point:
        """`end`, moved away from `start` by a share of their distance."""
        a, b = self[start], self[end]
        return _Point(b.where + share * (b.where - a.where), a.known & b.known)

    def distance(self, start: str, end: str) -> tuple[Tensor, Tensor]:
        """It and whether it is known; 0 if not."""
        a, b = self[start], self[end]
        known = a.known & b.known
        length = torch.linalg.vector_norm(a.where - b.where, dim=-1)
        return torch.where(known, length, 0), known


def _torso_diagonal(pose: _Pose) -> tuple[Tensor, Tensor]:
    """s, from the one diagonal that is known if the other is not, and whether there is one."""
    first, has_first = pose.distance("lsho", "rhip")
    second, has_second = pose.distance("rsho", "lhip")
    return torch.maximum(first, second), has_first | has_second


def _capsules(pose: _Pose) -> list[_Segment]:
    """The 19 capsules, in their order."""
    rows = [
        _Segment(pose[a], pose[b], _TORSO_THICK, 0)
        for i, a in enumerate(_TORSO)
        for b in _TORSO[i + 1 :]
    ]
    left, right, neck = pose["lear"], pose["rear"], pose["neck"]
    center = (left.where + right.where) / 2
    lower = 0.7 * center + 0.3 * neck.where
    known = left.known & right.known & neck.known
    rows.append(_Segment(_Point(2 * center - lower, known), _Point(lower, known), _HEAD_THICK, 1))
    for i, side in enumerate("lr"):
        hand = pose.beyond(side + "elb", side + "wri", 0.2)
        rows += [
            _Segment(pose[side + "sho"], pose[side + "elb"], _LIMB_THICK, 2 + 2 * i),
            _Segment(pose[side + "elb"], hand, _LIMB_THICK, 3 + 2 * i),
            _Segment(hand, hand, _BALL_THICK, 3 + 2 * i),
        ]
    for i, side in enumerate("lr"):
        hip = pose.beyond(side + "sho", side + "hip", 0.1)
        foot = pose.beyond(side + "kne", side + "ank", 0.2)
        rows += [
            _Segment(hip, pose[side + "kne"], _LIMB_THICK, 6 + 2 * i),
            _Segment(pose[side + "kne"], foot, _LIMB_THICK, 7 + 2 * i),
            _Segment(foot, foot, _BALL_THICK, 7 + 2 * i),
        ]
    return rows


def _point_sets(pose: _Pose) -> tuple[Tensor, Tensor]:
    """Points (..., 10, 8, 3) in pixels and their weights (..., 10, 8)."""
    sets = [[pose[name] for name in names] for names in (_TORSO, _HEAD)]
    sets += [_limb_points(*(pose[name] for name in names)) for names in _LIMBS]
    nothing = _Point(torch.zeros_like(pose.where[..., 0, :]), torch.zeros_like(pose.known[..., 0]))
    rows = [points + [nothing] * (_MOST_POINTS - len(points)) for points in sets]
    where = torch.stack([torch.stack([p.where for p in row], -2) for row in rows], -3)
    known = torch.stack([torch.stack([p.known for p in row], -1) for row in rows], -2)
    return torch.where(known[..., None], where, 0), known.to(where.dtype)


def _limb_points(a: _Point, b: _Point, anchor: _Point) -> list[_Point]:
    """The joints, and the point beside b that is normal to the plane in which the limb bends."""
    bone, r = b.where - a.where, anchor.where - b.where
    normal = torch.linalg.cross(bone, r, dim=-1)
    length, reach, size = (torch.linalg.vector_norm(v, dim=-1) for v in (bone, r, normal))
    bent = size > (1e-6 if size.dtype == torch.float64 else 1e-5) * length * reach
    third = b.where + (reach / torch.where(bent, size, 1))[..., None] * normal
    # A bone without a length has no direction: two equal points would pass for a mere shift.
    whole = a.known & b.known & (length > 0)
    return [
        _Point(a.where, whole),
        _Point(b.where, whole),
        _Point(third, whole & anchor.known & bent),
    ]


def _extent(points: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Of the points with a weight: how far the farthest is from their mean, and how far the points
    are from the line through both. (..., 10) each."""
    used = (weight > 0).to(points.dtype)[..., None]
    mean = (points * used).sum(-2, keepdim=True) / used.sum(-2, keepdim=True).clamp(min=1)
    offset = (points - mean) * used
    distance = torch.linalg.vector_norm(offset, dim=-1)
    spread, farthest = distance.max(-1)
    index = farthest[..., None, None].expand(*farthest.shape, 1, 3)
    axis = offset.gather(-2, index) / spread.clamp(min=1e-30)[..., None, None]
    across = offset - (offset * axis).sum(-1, keepdim=True) * axis
    return spread, torch.linalg.vector_norm(across, dim=-1).amax(-1)


def _pitch(voxel: Sequence[float], like: Tensor) -> Tensor:
    """The voxel's sides (3,) in the geometry dtype of `like`, after checking both."""
    if not isinstance(like, torch.Tensor):
        raise TypeError(f"joints must be a torch.Tensor, got {describe(like)}")
    if not like.is_floating_point():
        raise ValueError(f"joints must be a floating point tensor, got {describe(like)}")
    sides = tuple(float(side) for side in voxel)
    if len(sides) != 3 or not all(0 < side < float("inf") for side in sides):
        raise ValueError(f"voxel must be three positive numbers of pixels (x, y, z), got {voxel}")
    return torch.tensor(sides, dtype=geometry_dtype(like.dtype), device=like.device)
