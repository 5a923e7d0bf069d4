# SPDX-License-Identifier: Apache-2.0
"""capsule_mask: the ten body parts of posed people, 19 capsules each, in volumes of 64^3."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

import pose_kernels as pk

from .registry import Provider, ours

P = 10
SOFTNESS = 0.2
KINDS = ("bits", "bool", "soft")


@dataclasses.dataclass(frozen=True)
class VolumeCase:
    """N volumes of size D x H x W; kind: what is written, int32 bits, bool, or soft floats."""

    N: int
    size: tuple[int, int, int]
    kind: str
    dtype: torch.dtype = torch.float32
    direction: str = "forward"
    main: bool = False
    channels_last: bool = False  # there are no channels

    @property
    def title(self) -> str:
        return f"B{self.N} P{P} {'x'.join(map(str, self.size))} {self.kind}"

    def small(self) -> VolumeCase:
        size = tuple(min(side, most) for side, most in zip(self.size, (9, 14, 12), strict=True))
        return dataclasses.replace(self, N=min(self.N, 2), size=size, dtype=torch.float64)


CASES = [
    *(VolumeCase(2, (64, 64, 64), kind, main=True) for kind in KINDS),
    VolumeCase(2, (64, 64, 64), "soft", direction="backward", main=True),
    *(VolumeCase(8, (64, 64, 64), kind) for kind in KINDS),
    VolumeCase(8, (64, 64, 64), "soft", direction="backward"),
    VolumeCase(2, (33, 65, 65), "bits"),
]
DIFFERENTIABLE = ("start", "end", "radius")

# Segments between joints (the torso's are the six pairs of its corners), the part, and the
# diameter as a share of the torso's diagonal. Equal joints: a ball.
_TORSO = ("hip_l", "hip_r", "shoulder_l", "shoulder_r")
SEGMENTS = [
    *((a, b, 0, 0.3) for i, a in enumerate(_TORSO) for b in _TORSO[i + 1 :]),
    ("neck", "top", 1, 0.5),
    *(
        segment
        for side, part in (("l", 2), ("r", 4))
        for segment in (
            (f"shoulder_{side}", f"elbow_{side}", part, 0.2),
            (f"elbow_{side}", f"wrist_{side}", part + 1, 0.2),
            (f"wrist_{side}", f"wrist_{side}", part + 1, 0.4),
        )
    ),
    *(
        segment
        for side, part in (("l", 6), ("r", 8))
        for segment in (
            (f"hip_{side}", f"knee_{side}", part, 0.2),
            (f"knee_{side}", f"ankle_{side}", part + 1, 0.2),
            (f"ankle_{side}", f"ankle_{side}", part + 1, 0.4),
        )
    ),
]


def person(random: torch.Generator) -> dict[str, Tensor]:
    """Joints of one posed person, (x, y, z) in heights, y down; the pelvis is the origin."""

    def bone(length: float, lean: float, turn: float) -> Tensor:
        """Down, leaning outward to x by `lean` and toward z by `turn` radians, plus chance."""
        a, b = (torch.randn(2, generator=random, dtype=torch.float64) * 0.35).tolist()
        a, b = a + lean, b + turn
        return length * torch.tensor(
            [math.sin(a) * math.cos(b), math.cos(a) * math.cos(b), math.sin(b)], dtype=torch.float64
        )

    zero = torch.zeros(3, dtype=torch.float64)
    joints = {"neck": zero - bone(0.30, 0.0, 0.0) * 0.9}
    joints["top"] = joints["neck"] - bone(0.14, 0.0, 0.0)
    for side, s in (("l", 1.0), ("r", -1.0)):
        out = torch.tensor([s, 0.0, 0.0], dtype=torch.float64)
        joints[f"hip_{side}"] = 0.06 * out
        joints[f"shoulder_{side}"] = joints["neck"] + 0.11 * out
        elbow = joints[f"shoulder_{side}"] + bone(0.17, 0.5 * s, 0.0)
        joints[f"elbow_{side}"] = elbow
        joints[f"wrist_{side}"] = elbow + bone(0.16, 0.3 * s, 0.3)
        knee = joints[f"hip_{side}"] + bone(0.23, 0.1 * s, 0.0)
        joints[f"knee_{side}"] = knee
        joints[f"ankle_{side}"] = knee + bone(0.22, 0.0, -0.2)
    return joints


def inputs(case: VolumeCase, device: str, seed: int = 0) -> dict[str, Tensor]:
    """A person fills 85 % of the height; one voxel is added to every half-axis.

    Segments are moved apart by hundredths of a voxel: where two share a corner of the torso, both
    are nearest, and every formulation would give the gradient to another one of them.
    """
    random = torch.Generator().manual_seed(seed)
    D, H, W = case.size
    scale = 0.85 * torch.tensor([min(H, W), H, min(H, D)], dtype=torch.float64)
    center = torch.tensor([W / 2, 0.52 * H, D / 2], dtype=torch.float64)
    starts, ends, radii = [], [], []
    for _ in range(case.N):
        joints = person(random)
        diagonal = (joints["shoulder_l"] - joints["hip_r"]).norm()
        apart = center + 0.05 * torch.rand(len(SEGMENTS), 3, generator=random, dtype=torch.float64)
        starts.append(torch.stack([joints[a] for a, _, _, _ in SEGMENTS]) * scale + apart)
        ends.append(torch.stack([joints[b] for _, b, _, _ in SEGMENTS]) * scale + apart)
        radii.append(torch.stack([diagonal * w / 2 * scale + 1 for *_, w in SEGMENTS]))
    points = {
        name: torch.stack(rows).to(case.dtype).to(device)
        for name, rows in (("start", starts), ("end", ends), ("radius", radii))
    }
    return {**points, "part": torch.tensor([p for _, _, p, _ in SEGMENTS], device=device)}


def options(case: VolumeCase) -> dict:
    return {
        "size": case.size,
        "num_parts": P,
        "packed": case.kind == "bits",
        "softness": SOFTNESS if case.kind == "soft" else None,
    }


def reference(case: VolumeCase, *_: Tensor, **tensors: Tensor) -> tuple[Tensor]:
    return (pk.reference.capsule_mask(**tensors, **options(case)),)


def finish(case: VolumeCase, d2: list[Tensor]) -> tuple[Tensor]:
    """The mask, of the squared distances (N, D, H, W) of every capsule."""
    parts = [[d2[k] for k, (_, _, p, _) in enumerate(SEGMENTS) if p == i] for i in range(P)]
    nearest = []
    for own in parts:
        least = own[0]
        for other in own[1:]:
            least = torch.minimum(least, other)
        nearest.append(least)
    if case.kind == "soft":
        return (torch.stack([((1 - x.sqrt()) / SOFTNESS).sigmoid() for x in nearest], 1),)
    if case.kind == "bool":
        return (torch.stack([x <= 1 for x in nearest], 1),)
    bits = (nearest[0] <= 1).int()
    for p, x in enumerate(nearest[1:], 1):
        bits |= (x <= 1).int() << p
    return (bits,)


def eager(case: VolumeCase, start: Tensor, end: Tensor, radius: Tensor, _: Tensor) -> tuple[Tensor]:
    """The obvious code: the whole grid of points, one capsule after another."""
    axes = (torch.arange(n, device=start.device, dtype=start.dtype) for n in case.size)
    z, y, x = torch.meshgrid(*axes, indexing="ij")
    grid = torch.stack([x, y, z], -1)  # (D, H, W, 3)
    d2 = []
    for k in range(start.shape[1]):
        a, b, r = (p[:, k, None, None, None] for p in (start, end, radius))
        along = (b - a) / r
        to = (grid - a) / r
        t = (to * along).sum(-1, keepdim=True) / along.square().sum(-1, keepdim=True).clamp(1e-12)
        d2.append((to - t.clamp(0, 1) * along).square().sum(-1))
    return finish(case, d2)


def separable(
    case: VolumeCase, start: Tensor, end: Tensor, radius: Tensor, _: Tensor
) -> tuple[Tensor]:
    """|to|^2 and to . along are sums of one-dimensional terms: five passes over the grid a capsule.

    |to - t along|^2 = |to|^2 - t (2 to . along - t |along|^2), a hair less exact.
    """
    D, H, W = case.size
    along = (end - start) / radius  # (N, K, 3)
    length2 = along.square().sum(-1)[..., None, None, None]
    squares, products = [], []
    for i, n in enumerate((W, H, D)):
        line = torch.arange(n, device=start.device, dtype=start.dtype)
        to = (line - start[..., i, None]) / radius[..., i, None]  # (N, K, n)
        shape = (*to.shape[:2], *(n if j == 2 - i else 1 for j in range(3)))
        squares.append(to.square().view(shape))
        products.append((to * along[..., i, None]).view(shape))
    d2 = []
    for k in range(start.shape[1]):
        square = (squares[2][:, k] + squares[1][:, k]) + squares[0][:, k]
        product = (products[2][:, k] + products[1][:, k]) + products[0][:, k]
        t = (product / length2[:, k].clamp(1e-12)).clamp(0, 1)
        d2.append((square - t * (2 * product - t * length2[:, k])).clamp(min=1e-12))
    return finish(case, d2)


def boxes(case: VolumeCase, start: Tensor, end: Tensor, radius: Tensor, _: Tensor) -> tuple[Tensor]:
    """Each capsule of each sample in its own box only."""
    N, (D, H, W) = start.shape[0], case.size
    low = (torch.minimum(start, end) - radius).floor().clamp(min=0).int().tolist()
    high = (torch.maximum(start, end) + radius).ceil().int().tolist()
    if case.kind == "bits":
        mask = torch.zeros((N, D, H, W), dtype=torch.int32, device=start.device)
    else:
        mask = torch.zeros((N, P, D, H, W), dtype=torch.bool, device=start.device)
    along = (end - start) / radius
    length2 = along.square().sum(-1).clamp(min=1e-12)
    lines = [torch.arange(n, device=start.device, dtype=start.dtype) for n in (W, H, D)]
    for n in range(N):
        for k, (_, _, p, _) in enumerate(SEGMENTS):
            (x0, y0, z0), (x1, y1, z1) = low[n][k], high[n][k]
            box = slice(z0, z1 + 1), slice(y0, y1 + 1), slice(x0, x1 + 1)
            x, y, z = (
                (line[cut] - start[n, k, i]) / radius[n, k, i]
                for i, (line, cut) in enumerate(zip(lines, box[::-1], strict=True))
            )
            z, y = z[:, None, None], y[:, None]
            e = along[n, k]
            t = ((x * e[0] + (y * e[1] + z * e[2])) / length2[n, k]).clamp(0, 1)
            d2 = (x - t * e[0]).square() + (y - t * e[1]).square() + (z - t * e[2]).square()
            if case.kind == "bits":
                mask[n][box] |= (d2 <= 1).int() << p
            else:
                mask[n, p][box] |= d2 <= 1
    return (mask,)


def providers(case: VolumeCase, device: str) -> list[Provider]:
    def pose_kernels(*tensors: Tensor) -> tuple[Tensor]:
        return (pk.capsule_mask(*tensors, **options(case)),)

    op = "capsule_soft_mask" if case.kind == "soft" else "capsule_mask"
    found = [
        *ours(op, pose_kernels, device),
        Provider("capsule by capsule", "eager", lambda *t: eager(case, *t)),
        Provider("separable terms", "smart", lambda *t: separable(case, *t)),
    ]
    if case.kind != "soft":
        found.append(
            Provider(
                "boxes",
                "smart",
                lambda *t: boxes(case, *t),
                gradients=False,
                synchronizes=True,
            )
        )
    return found


def coordinate_range(case: VolumeCase) -> int:
    return max(case.size)


def longest_sum(case: VolumeCase) -> int:
    """A voxel's sigma: tens of roundings; a gradient: as many voxels as a part has in its reach."""
    if case.direction == "forward":
        return int(4 * max(case.size) / SOFTNESS)
    return math.prod(case.size)


def bytes_moved(case: VolumeCase) -> int:
    """The capsules are nothing: the mask written once, or its gradient read once."""
    voxels = case.N * math.prod(case.size)
    element = torch.finfo(case.dtype).bits // 8
    return voxels * {"bits": 4, "bool": P, "soft": P * element}[case.kind]


def flops(case: VolumeCase) -> int:
    """Soft: 14 per voxel and capsule, 20 per voxel and part; backward half as much again.

    Hard: 14 per voxel and capsule of the voxels inside some capsule, about 4 % of the volume.
    """
    voxels = case.N * math.prod(case.size)
    if case.kind != "soft":
        return int(0.04 * voxels) * 14 * 2
    forward = voxels * (14 * len(SEGMENTS) + 20 * P)
    return forward if case.direction == "forward" else forward * 3 // 2
