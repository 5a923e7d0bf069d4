# SPDX-License-Identifier: Apache-2.0
"""Every op on small odd shapes, in every form that takes a kernel of its own, forward and backward.

What runs on a GPU but not under pytest calls these: tools/sanitize.py, and one of them tells
whether a library loads (tools/abi_check.py). tests/test_gpu.py asks the same calls what only a GPU
can answer. Coordinates are partly outside, NaN and infinite: that must not reach memory.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

import pose_kernels as pk

NAN, INF = float("nan"), float("inf")
Inputs = dict[str, Any]


class Call(NamedTuple):
    """One form of an op. make() returns its keyword arguments on the CPU."""

    op: str  # its public name
    form: str
    make: Callable[[], Inputs]
    wanted: tuple[str, ...]  # the arguments that gradients are taken for

    @property
    def name(self) -> str:
        return f"{self.op} {self.form}"

    def inputs(self, device: torch.device | str) -> Inputs:
        given = self.make()
        return {k: v.to(device) if isinstance(v, Tensor) else v for k, v in given.items()}

    def forward(self, inputs: Inputs, *, reference: bool = False) -> tuple[Tensor, ...]:
        found = getattr(pk.reference if reference else pk, self.op)(**inputs)
        return (found,) if isinstance(found, Tensor) else tuple(found)

    def run(
        self, inputs: Inputs, incoming: list[Tensor] | None = None, *, reference: bool = False
    ) -> list[Tensor]:
        """The outputs, then a gradient for each of wanted. incoming: what arrives at the outputs
        that carry a gradient; unless given, what :func:`arriving` makes."""
        leaves = {name: inputs[name].detach().requires_grad_() for name in self.wanted}
        outputs = self.forward({**inputs, **leaves}, reference=reference)
        results = [y.detach() for y in outputs]
        if leaves:
            moving = [y for y in outputs if y.requires_grad]
            given = [arriving(y) for y in moving] if incoming is None else incoming
            results += torch.autograd.grad(moving, list(leaves.values()), given)
        return results

    def arriving(self, inputs: Inputs) -> list[Tensor]:
        """The gradients that :meth:`run` sends, made beforehand."""
        leaves = {name: inputs[name].detach().requires_grad_() for name in self.wanted}
        return [arriving(y) for y in self.forward({**inputs, **leaves}) if y.requires_grad]


def arriving(y: Tensor) -> Tensor:
    """A gradient for y: no two neighbors alike, of its own strides."""
    steps = torch.arange(y.numel(), device=y.device).remainder(7).sub(3).view(y.shape)
    return torch.empty_like(y).copy_(steps).detach()


# ---- inputs


def random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def features(*shape: int, dtype: torch.dtype = torch.float32, last: int = 0) -> Tensor:
    """Numbers in (-2, 2); last: how many axes follow the channels that are innermost in memory."""
    x = (torch.rand(shape, generator=random(0)) * 4 - 2).to(dtype)
    return x.movedim(-1 - last, -1).contiguous().movedim(-1, -1 - last) if last else x


def broken(x: Tensor, seed: int = 1) -> Tensor:
    """x with some numbers that are none, or far away."""
    special = torch.tensor([NAN, INF, -INF, 1e30, -1e30], dtype=x.dtype)
    pick = torch.randint(0, 40, x.shape, generator=random(seed))
    return x.where(pick >= len(special), special[pick % len(special)])


def maps(N: int, H: int, W: int, P: int, *, smooth: bool = False) -> Inputs:
    """part (some of it no part) and uv (some of it outside)."""
    part = torch.randint(-1, P + 2, (N, H, W), generator=random(2))
    uv = torch.rand(N, 2, H, W, generator=random(3)) * 1.4 - 0.2
    if smooth:  # patches that triangles can cover
        part = part[:, :1, :1].clamp(1, P).expand(N, H, W).clone()
        part[:, H // 2] = 0
        y, x = torch.meshgrid(torch.arange(H) / H, torch.arange(W) / W, indexing="ij")
        uv = torch.stack([x, y]).expand(N, 2, H, W) * 0.9 + 0.01 * uv
    return {"part": part, "uv": broken(uv)}


def splat(dtype: torch.dtype, last: int, C: int, **options: Any) -> Inputs:
    image = features(2, C, 13, 11, dtype=dtype, last=last)
    return {"image": image, **maps(2, 13, 11, 3), "num_parts": 3, "size": 7, **options}


def raster(C: int, size: int) -> Inputs:
    given = {"image": features(2, C, 13, 11), **maps(2, 13, 11, 3, smooth=True)}
    return {**given, "num_parts": 3, "size": size, "max_edge": 0.4}


def gather(dtype: torch.dtype, last: int, C: int) -> Inputs:
    return {"atlas": features(2, 3, C, 7, 7, dtype=dtype, last=last), **maps(2, 13, 11, 3)}


def fill(P: int, C: int, size: int, dtype: torch.dtype, last: int, **options: Any) -> Inputs:
    weight = torch.rand(2, P, size, size, generator=random(4))
    weight = weight.where(weight > 0.9, 0)
    weight[1, 2:] = 0  # a tile of which nothing is known
    known = (weight > 1e-3)[:, :, None]
    atlas = features(2, P, C, size, size, dtype=dtype, last=last)
    return {"atlas": atlas * known, "weight": weight, **options}


def capsules(**options: Any) -> Inputs:
    span = torch.tensor([35.0, 9.0, 5.0])  # x, y, z
    start = torch.rand(2, 7, 3, generator=random(5)) * (span + 4) - 2
    end = start + (torch.rand(2, 7, 3, generator=random(6)) - 0.5) * span
    radius = 0.7 + torch.rand(2, 7, 3, generator=random(7)) * 0.2 * span
    start[0, 3], radius[1, 4] = NAN, -1.0
    part = torch.tensor([0, 1, 2, 2, 1, 0, 5])  # 5: no part
    given = {"start": start, "end": end, "radius": radius, "part": part}
    return {**given, "size": (5, 9, 35), "num_parts": 3, **options}


def pairs(dtype: torch.dtype, **options: Any) -> Inputs:
    source = torch.rand(37, 5, 3, generator=random(8), dtype=torch.float64) * 4
    turned = source[..., [1, 2, 0]] * 1.5 + 0.1 * source.square()
    weight = torch.rand(37, 5, generator=random(9), dtype=torch.float64)
    source[3], turned[3] = 0, 0  # one point: nothing to fit
    given = {"source": source, "target": turned, "weight": weight}
    return {**{name: x.to(dtype) for name, x in given.items()}, **options}


def warp(mask: str, dtype: torch.dtype, last: int, C: int) -> Inputs:
    N, P, D, H, W = 2, 3, 4, 9, 13
    one = torch.eye(3, 4).expand(N, P, 3, 4)
    transform = one + 0.3 * (torch.rand(N, P, 3, 4, generator=random(10)) - 0.5)
    transform[..., 3] *= 9
    transform[1, 2] = NAN
    inside = torch.rand(N, P, D, H, W, generator=random(11))
    bits = ((inside < 0.6).int() << torch.arange(P, dtype=torch.int32).view(P, 1, 1, 1)).sum(1)
    masks = {"bits": bits.int(), "bool": inside < 0.6, "soft": inside.where(inside > 0.4, 0)}
    volume = features(N, C, D, H, W, dtype=dtype, last=last)
    return {"volume": volume, "mask": masks[mask], "transform": transform}


def joints(size: tuple[int, ...], **options: Any) -> Inputs:
    points = torch.rand(2, 5, len(size), generator=random(12)) * (max(size) + 4) - 2
    points[0, 1], points[1, 2] = NAN, 1e30
    return {"points": points, "size": size, "sigma": 2.5, **options}


def flow(dtype: torch.dtype, last: int, C: int, **options: Any) -> Inputs:
    moved = broken(torch.rand(2, 2, 9, 14, generator=random(13)) * 9 - 4)
    seen = torch.randint(0, 3, (2, 9, 14), generator=random(14), dtype=torch.uint8)
    image = features(2, C, 13, 11, dtype=dtype, last=last)
    return {"image": image, "flow": moved, "visibility": seen, **options}


def crops(dtype: torch.dtype, last: int, C: int) -> Inputs:
    center = torch.rand(2, 3, 2, generator=random(15)) * 15 - 2
    center[0, 1] = NAN
    return {"image": features(2, C, 13, 11, dtype=dtype, last=last), "center": center, "size": 6}


def mesh(dtype: torch.dtype, V: int, F: int, size: tuple[int, int]) -> Inputs:
    span = torch.tensor([size[1] * 1.4, size[0] * 1.4, 4.0])
    vertices = broken(torch.rand(2, V, 3, generator=random(16)) * span - 0.2 * span)
    faces = torch.randint(0, V, (F, 3), generator=random(17))
    return {"vertices": vertices.to(dtype), "faces": faces, "size": size}


# ---- the list

f32, f64, f16, bf16 = torch.float32, torch.float64, torch.float16, torch.bfloat16
SOFT: Inputs = {"packed": False, "softness": 0.7}


def _call(op: str, form: str, wanted: str, make: Callable[..., Inputs], *args: Any, **k: Any):
    return Call(op, form, partial(make, *args, **k), tuple(wanted.split()))


CALLS = [
    _call("uv_splat", "contiguous", "image uv", splat, f32, 0, 5),
    _call("uv_splat", "sums, channels last", "image uv", splat, f16, 2, 19, normalize=False),
    _call("uv_splat", "double", "image", splat, f64, 0, 2),
    _call("uv_raster", "fine tiles", "image", raster, 3, 29),
    _call("uv_raster", "coarse tiles", "image", raster, 5, 6),
    _call("uv_gather", "contiguous", "atlas uv", gather, f32, 0, 5),
    _call("uv_gather", "channels last", "atlas uv", gather, bf16, 2, 18),
    _call("push_pull", "everywhere", "atlas", fill, 3, 5, 13, f32, 0),
    _call("push_pull", "near, channels last", "atlas", fill, 3, 5, 22, f16, 2, radius=3),
    _call("push_pull", "beyond shared memory", "atlas", fill, 1, 1, 301, f64, 0),
    _call("capsule_mask", "bits", "", capsules),
    _call("capsule_mask", "bool", "", capsules, packed=False),
    _call("capsule_mask", "soft", "start end radius", capsules, **SOFT),
    _call("helmert_fit", "single", "source target weight", pairs, f32),
    _call("helmert_fit", "rigid, double", "source target weight", pairs, f64, scale=False),
    _call("helmert_warp", "bits", "volume transform", warp, "bits", f32, 0, 5),
    _call("helmert_warp", "bool, channels last", "volume transform", warp, "bool", f16, 3, 18),
    _call("helmert_warp", "soft", "volume mask transform", warp, "soft", f32, 0, 7),
    _call("heatmap", "plane", "points", joints, (13, 37)),
    _call("heatmap", "volume", "points", joints, (5, 9, 35), stride=2.0),
    _call("heatmap", "disc", "", joints, (13, 37), kind="disc"),
    _call("heatmap", "impulse", "", joints, (13, 37), kind="impulse"),
    _call("flow_warp", "plain", "image flow", flow, f32, 0, 5),
    _call(
        "flow_warp", "gate, border", "image flow", flow, bf16, 2, 18, mode="gate", padding="border"
    ),
    _call("flow_warp", "expand", "image flow", flow, f32, 2, 6, mode="expand"),
    _call("region_crop", "contiguous", "image", crops, f32, 0, 5),
    _call("region_crop", "channels last", "image", crops, f16, 2, 18),
    _call("mesh_raster", "triangles", "", mesh, f32, 9, 31, (13, 37)),
    _call("mesh_raster", "double", "", mesh, f64, 40, 70, (35, 67)),
]


def chosen(backend: str, ops: list[str] | None = None) -> list[Call]:
    """The calls of these ops (None: all) that a backend has kernels for."""
    from pose_kernels.triton import OPS as triton_ops

    found = [call for call in CALLS if not ops or call.op in ops]
    return [call for call in found if backend != "triton" or call.op in triton_ops]
