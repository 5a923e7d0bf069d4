# SPDX-License-Identifier: Apache-2.0
"""Two small networks in the manner of the systems that the ops are for, ready to be trained.

surface     photo -> convolutions -> uv_splat onto 24 tiles -> push_pull -> uv_gather at the map of
            the target -> convolutions -> l1: the texture stream of "Dense Pose Transfer" (2018)
volume      photo -> convolutions -> features of D depth planes -> helmert_warp with capsule masks
            and fits between two poses -> projection -> convolutions -> l1: the warp of "Reposing
            Humans by Warping 3D Features" (2020)

Who computes the ops is a parameter; weights, data and optimizer are the same for everybody.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pose_kernels as pk
from pose_kernels.skeleton import FRAME, BodyParts
from pose_kernels.testing import synthetic_iuv

from . import (
    bench_capsule_mask,
    bench_helmert_fit,
    bench_helmert_warp,
    bench_push_pull,
    bench_uv_gather,
    bench_uv_splat,
)
from .surface import MIN_WEIGHT
from .surface import P as TILES
from .volume import BUILT_IN
from .volume import P as PARTS

RATE, SEED = 2e-3, 0


class SurfaceOps(NamedTuple):
    splat: Callable[[Tensor, Tensor, Tensor, int], Sequence[Tensor]]  # image, part, uv, S
    fill: Callable[[Tensor, Tensor], Tensor]  # atlas, weight
    gather: Callable[[Tensor, Tensor, Tensor], Tensor]  # atlas, part, uv


class VolumeOps(NamedTuple):
    mask: Callable[[BodyParts, tuple[int, int, int]], Tensor]  # bits (N, D, H, W)
    fit: Callable[[Tensor, Tensor, Tensor], Tensor]  # source, target (B, K, 3), weight (B, K)
    warp: Callable[[Tensor, Tensor, Tensor], Tensor]  # volume, mask, transform


class Maker(NamedTuple):
    """Who computes the ops of a stream."""

    name: str
    kind: str  # as in registry.KINDS
    ops: SurfaceOps | VolumeOps | str  # of a system in systems.py: the backend


class Trained(NamedTuple):
    """A network in training.

    step: one more, returns the loss, or the terms (T,) of several losses; names: of the terms,
    there after the first step; active: entered around steps; checked: steps after which the losses
    must still agree; allowed: relative differences of the first and of those losses, rounding alone
    and what Adam makes of it; alone: makes, by a step, a call of the ops of a step without the rest
    of it.
    """

    step: Callable[[], Tensor]
    names: Sequence[str] = ("",)
    active: Callable[[], AbstractContextManager[None]] = nullcontext
    checked: int = 3
    allowed: tuple[float, float] = (1e-5, 1e-3)
    alone: Callable[[], Callable[[], None]] | None = None


class SurfaceNet(nn.Module):
    def __init__(self, C: int, S: int) -> None:
        super().__init__()
        self.S = S
        self.encoder = nn.Sequential(
            nn.Conv2d(3, C, 3, padding=1), nn.ReLU(), nn.Conv2d(C, C - 3, 3, padding=1)
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(C, C, 3, padding=1), nn.ReLU(), nn.Conv2d(C, 3, 3, padding=1)
        )

    def forward(
        self,
        photo: Tensor,
        part: Tensor,
        uv: Tensor,
        to_part: Tensor,
        to_uv: Tensor,
        ops: SurfaceOps,
    ) -> Tensor:
        features = torch.cat([photo, self.encoder(photo)], 1)
        atlas, weight = ops.splat(features, part, uv, self.S)
        atlas = ops.fill(atlas, weight)
        return self.decoder(ops.gather(atlas, to_part, to_uv))


class VolumeNet(nn.Module):
    def __init__(self, C: int, D: int) -> None:
        super().__init__()
        self.C, self.D = C, D
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 32, 7, stride=2, padding=3),
            nn.ReLU(),
            nn.Conv2d(32, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, D * C, 3, padding=1),
        )
        self.project = nn.Sequential(nn.Conv2d(D * C, 64, 1), nn.ReLU())
        self.decoder = nn.Conv2d(64, 3, 3, padding=1)

    def forward(self, photo: Tensor, mask: Tensor, transform: Tensor, ops: VolumeOps) -> Tensor:
        planes = self.encoder(photo).unflatten(1, (self.D, self.C))  # depth is the outer index
        # The layout that suits everybody: the part loop is twice as fast with it, ours as well.
        volume = planes.transpose(1, 2).contiguous(memory_format=torch.channels_last_3d)
        warped = ops.warp(volume, mask, transform)
        flat = self.project(warped.transpose(1, 2).flatten(1, 2))
        size = photo.shape[2:]
        return self.decoder(F.interpolate(flat, size, mode="bilinear", align_corners=True))


@dataclasses.dataclass(frozen=True)
class SurfaceStream:
    """N photos of H x H pixels, C channels on the tiles of S x S texels."""

    N: int
    C: int
    H: int
    S: int

    @property
    def title(self) -> str:
        return f"B{self.N} C{self.C} {self.H}x{self.H} S{self.S}, fp32"

    def makers(self, device: str) -> list[Maker]:
        return [
            Maker(
                f"ours, {pk.backends.chosen('uv_splat', device)}",
                "ours",
                SurfaceOps(
                    lambda *t: pk.uv_splat(*t[:3], size=t[3], min_weight=MIN_WEIGHT),
                    lambda *t: pk.push_pull(*t, min_weight=MIN_WEIGHT),
                    pk.uv_gather,
                ),
            ),
            Maker(
                "scatter_add_, avg_pool2d + interpolate, 4 x gather",
                "eager",
                SurfaceOps(
                    bench_uv_splat.eager,
                    lambda *t: bench_push_pull.eager(*t, None)[0],
                    lambda *t: bench_uv_gather.eager(*t)[0],
                ),
            ),
            Maker(
                "foreground two-phase, known texels, 5-D grid_sample",
                "smart",
                SurfaceOps(
                    bench_uv_splat.smart,
                    lambda *t: bench_push_pull.smart(*t, None)[0],
                    lambda *t: bench_uv_gather.grid_sample_volume(*t)[0],
                ),
            ),
        ]

    def start(self, maker: Maker, device: str) -> Trained:
        random = torch.Generator().manual_seed(SEED)
        texture = torch.rand(self.N, TILES, 3, self.S, self.S, generator=random)
        maps = [synthetic_iuv(self.N, self.H, self.H, seed=seed) for seed in (1, 2)]
        (part, uv), (to_part, to_uv) = maps
        photo, wanted = (pk.uv_gather(texture, *where) for where in maps)
        seen = (to_part > 0)[:, None].float()
        inputs = [x.to(device) for x in (photo, part, uv, to_part, to_uv)]
        wanted, seen = wanted.to(device), seen.to(device)
        net = _network(lambda: SurfaceNet(self.C, self.S), device)
        ops = maker.ops

        def loss() -> Tensor:
            return ((net(*inputs, ops) - wanted) * seen).abs().sum() / (3 * seen.sum())

        return _training(net, loss)


@dataclasses.dataclass(frozen=True)
class VolumeStream:
    """N photos of 4 (H - 1) + 1 pixels, volumes of C channels and D x H x H voxels."""

    N: int
    C: int
    D: int
    H: int

    @property
    def title(self) -> str:
        side = 4 * (self.H - 1) + 1
        return f"B{self.N} C{self.C} {self.D}x{self.H}x{self.H} P{PARTS}, photo {side}x{side}, fp32"

    def makers(self, device: str) -> list[Maker]:
        def masks(how: Callable[..., tuple[Tensor]]) -> Callable[..., Tensor]:
            def mask(parts: BodyParts, size: tuple[int, int, int]) -> Tensor:
                case = bench_capsule_mask.VolumeCase(parts.start.shape[0], size, "bits")
                assert parts.part.tolist() == [p for *_, p, _ in bench_capsule_mask.SEGMENTS]
                return how(case, *parts.capsules)[0]

            return mask

        def ours(parts: BodyParts, size: tuple[int, int, int]) -> Tensor:
            return pk.capsule_mask(*parts.capsules, size=size, num_parts=PARTS)

        return [
            Maker(
                f"ours, {pk.backends.chosen('helmert_warp', device)}",
                "ours",
                VolumeOps(ours, pk.helmert_fit, pk.helmert_warp),
            ),
            Maker(
                "capsule by capsule, linalg.svd, part loop",
                "eager",
                VolumeOps(
                    masks(bench_capsule_mask.eager),
                    lambda *t: bench_helmert_fit.umeyama(*t)[0],
                    lambda *t: bench_helmert_warp.part_loop(*t)[0],
                ),
            ),
            Maker(
                "boxes, FOAM, part boxes",
                "smart",
                VolumeOps(
                    masks(bench_capsule_mask.boxes),
                    lambda *t: bench_helmert_fit.foam(*t)[0],
                    lambda *t: bench_helmert_warp.part_boxes(*t)[0],
                ),
            ),
        ]

    def start(self, maker: Maker, device: str) -> Trained:
        side = 4 * (self.H - 1) + 1
        random = torch.Generator().manual_seed(SEED)
        coarse = torch.rand(2, self.N, 3, 9, 9, generator=random)
        photo, wanted = (
            F.interpolate(x, (side, side), mode="bilinear", align_corners=True).to(device)
            for x in coarse
        )
        poses = torch.tensor([BUILT_IN[n % 2] for n in range(self.N)]).float().to(device)
        net = _network(lambda: VolumeNet(self.C, self.D), device)
        ops, size = maker.ops, (self.D, self.H, self.H)

        def loss() -> Tensor:
            with torch.no_grad():  # poses are data
                mask, transform = prepare(*poses.unbind(1), size, ops)
            return (net(photo, mask, transform, ops) - wanted).abs().mean()

        return _training(net, loss)


def prepare(
    source: Tensor, target: Tensor, size: tuple[int, int, int], ops: VolumeOps
) -> tuple[Tensor, Tensor]:
    """Masks of the source and transforms (N, 10, 3, 4) from target to source voxels, of joints."""
    voxel = tuple(FRAME / (n - 1) for n in reversed(size))
    parts, to = (pk.body_parts(joints, "reposing19", voxel=voxel) for joints in (source, target))
    where = (to.points, parts.points, parts.weight * to.weight)
    fit = ops.fit(*(x.flatten(0, 1) for x in where)).unflatten(0, to.points.shape[:2])
    pitch = torch.tensor(voxel, dtype=fit.dtype, device=fit.device)
    linear = fit[..., :3] * (pitch / pitch[:, None])
    return ops.mask(parts, size), torch.cat([linear, fit[..., 3:] / pitch[:, None]], -1)


STREAMS: dict[str, dict[str, SurfaceStream | VolumeStream]] = {
    "surface": {
        "default": SurfaceStream(N=2, C=16, H=256, S=256),
        "small": SurfaceStream(N=2, C=8, H=40, S=16),
    },
    "volume": {
        "default": VolumeStream(N=2, C=16, D=33, H=65),
        "small": VolumeStream(N=2, C=4, D=9, H=17),
    },
}


def _network(build: Callable[[], nn.Module], device: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        return build().to(device)


def _training(net: nn.Module, loss: Callable[[], Tensor]) -> Trained:
    optimizer = torch.optim.Adam(net.parameters(), lr=RATE, betas=(0.5, 0.999))

    def step() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        value = loss()
        value.backward()
        optimizer.step()
        return value.detach()

    return Trained(step)
