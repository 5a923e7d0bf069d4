# SPDX-License-Identifier: Apache-2.0
"""Inputs of flow_warp, and how far two correct implementations of it may differ.

The bounds are first-order rounding analysis, element by element. Floor and fraction of a flow are
exact, so every weight is a product of two numbers with one rounding each, and a sum over n terms is
off by n roundings of the accumulator, whose unit is u. A result in a narrower dtype is off by one
more rounding of that. Two implementations differ by at most twice all that.
"""

from __future__ import annotations

import torch
from cases import INF, NAN, Inputs, features, geometry
from torch import Tensor

from pose_kernels.reference import flow_warp as reference_warp
from pose_kernels.reference.flow_warp import MODES, PADDINGS, FlowTaps, flow_taps


def tame_flow(N: int, h: int, w: int, H: int, W: int, dtype: torch.dtype, seed: int = 1) -> Tensor:
    """From everywhere to anywhere inside the image, fractions in (0.2, 0.8): away from kinks."""
    random = torch.Generator().manual_seed(seed)
    fraction = 0.2 + 0.6 * torch.rand((N, 2, h, w), generator=random, dtype=torch.float64)
    x = torch.randint(0, max(W - 1, 1), (N, h, w), generator=random) - torch.arange(w)
    y = torch.randint(0, max(H - 1, 1), (N, h, w), generator=random) - torch.arange(h)[:, None]
    return (torch.stack([x, y], 1) + fraction).to(dtype)


def wild_flow(N: int, h: int, w: int, H: int, W: int, dtype: torch.dtype, seed: int = 2) -> Tensor:
    """Anything: outside, whole numbers, tiny ones, NaN, infinities, too large for an int."""
    random = torch.Generator().manual_seed(seed)
    reach = 0.7 * torch.tensor([W, H], dtype=torch.float64).view(2, 1, 1) + 1
    flow = (torch.rand((N, 2, h, w), generator=random, dtype=torch.float64) * 2 - 1) * reach
    whole = torch.rand(flow.shape, generator=random) < 0.2
    flow = torch.where(whole, flow.round(), flow)
    special = torch.tensor(
        [0.0, -0.0, -1.0, NAN, INF, -INF, 1e30, -1e30, 3e38, -1e-9, 1e-40, 2.0**24, -(2.0**31)],
        dtype=flow.dtype,
    )
    pick = torch.randint(0, 6 * len(special), flow.shape, generator=random)
    return flow.where(pick >= len(special), special[pick % len(special)]).to(dtype)


def visibilities(N: int, h: int, w: int, seed: int = 3) -> Tensor:
    """0, 1, 2, and now and then what counts as 2."""
    random = torch.Generator().manual_seed(seed)
    v = torch.randint(0, 3, (N, h, w), generator=random)
    return v.where(torch.rand(v.shape, generator=random) > 0.1, 255).to(torch.uint8)


def warp_inputs(
    shape: tuple[int, int, int, int],
    size: tuple[int, int],
    mode: str,
    padding: str,
    dtype: torch.dtype,
    *,
    tame: bool = False,
    low: bool = False,
    seed: int = 0,
) -> Inputs:
    """``low``: the flow in the image's dtype, if that is a half one."""
    N, _, H, W = shape
    flow = (tame_flow if tame else wild_flow)(N, *size, H, W, geometry(dtype), seed + 1)
    inputs = {"image": features(shape, dtype, seed), "flow": flow.to(dtype) if low else flow}
    if mode != "plain":
        inputs["visibility"] = visibilities(N, *size, seed + 2)
    return {**inputs, "mode": mode, "padding": padding}


def taps_of(inputs: Inputs) -> FlowTaps:
    """Taps in float64 from the flow as the accumulator sees it."""
    image = inputs["image"].detach().cpu()
    flow = inputs["flow"].detach().cpu().to(geometry(image.dtype)).double()
    seen = inputs.get("visibility")
    mode, padding = MODES.index(inputs["mode"]), PADDINGS.index(inputs["padding"])
    return flow_taps(image, flow, None if seen is None else seen.cpu(), mode, padding)


def warp_bounds(inputs: Inputs, outputs: list[Tensor], grads: list[Tensor]) -> dict[str, Tensor]:
    """Bounds of the warped image and of its gradients to image and flow."""
    image = inputs["image"].detach().cpu()
    N, C, H, W = image.shape
    accumulator = geometry(image.dtype)
    u = torch.finfo(accumulator).eps
    store = torch.finfo(image.dtype).eps if image.dtype != accumulator else 0.0
    tiny = torch.finfo(image.dtype).tiny
    magnitude = image.double().abs()
    flow = inputs["flow"].detach().cpu().to(accumulator).double()
    seen = inputs.get("visibility")
    inputs = {**inputs, "image": magnitude, "flow": flow}
    inputs |= {} if seen is None else {"visibility": seen.cpu()}
    bounds = {"warped": 2 * (16 * u + store) * reference_warp(**inputs) + tiny}
    if not grads:
        return bounds

    g = grads[0].detach().cpu().double().abs()
    if inputs["mode"] == "expand":
        g = torch.where(inputs["visibility"][:, None] == 0, g[:, :C], g[:, C:])
    taps = taps_of(inputs)
    M = taps.pixel.shape[-1]
    g = g.movedim(1, -1).reshape(N, M, C)
    rows = magnitude.movedim(1, -1).reshape(N * H * W, C)
    size, count = torch.zeros_like(rows), torch.zeros(N * H * W, 1, dtype=torch.float64)
    move = torch.zeros(N, M, 2, dtype=torch.float64)
    for k in range(4):
        q, w = taps.pixel[k].flatten(), taps.weight[k, ..., None]
        size.index_add_(0, q, (g * w).flatten(0, 1))
        count.index_add_(0, q, (w != 0).double().flatten(0, 1))
        dot = (g * rows[taps.pixel[k]]).sum(-1)
        move += (taps.slope[:, k].abs() * dot).movedim(0, -1)
    image_bound = 2 * ((count + 8) * u + store) * size + tiny
    bounds["image"] = image_bound.view(N, H, W, C).movedim(-1, 1)
    narrow = torch.finfo(inputs["flow"].dtype)
    flow_bound = 2 * ((C + 16) * u) * move + narrow.tiny
    bounds["flow"] = flow_bound.movedim(-1, 1).reshape(flow.shape)
    return bounds
