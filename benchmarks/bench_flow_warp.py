# SPDX-License-Identifier: Apache-2.0
"""flow_warp: an image fetched along a flow."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor
from torch.nn import functional as F

import pose_kernels as pk
from pose_kernels.reference.flow_warp import MODES

from .registry import Provider, ours
from .surface import DTYPES


@dataclasses.dataclass(frozen=True)
class FlowCase:
    """N images of C channels; a smooth flow of +-8 % of the side, as between two poses."""

    N: int
    C: int
    H: int
    W: int
    dtype: torch.dtype = torch.float32
    channels_last: bool = False
    mode: str = "plain"
    direction: str = "forward"
    main: bool = False

    @property
    def title(self) -> str:
        words = [f"B{self.N} C{self.C} {self.H}x{self.W}"]
        words.append(DTYPES.get(self.dtype, str(self.dtype).removeprefix("torch.")))
        words.append("channels last" if self.channels_last else "contiguous")
        if self.mode != "plain":
            words.append(self.mode)
        return ", ".join(words)

    def small(self) -> FlowCase:
        size = {"N": min(self.N, 2), "C": min(self.C, 8), "H": 20, "W": 24}
        return dataclasses.replace(self, **size, dtype=torch.float64)

    @property
    def pixels(self) -> int:
        return self.N * self.H * self.W


_FEATURES, _IMAGES, _PHOTO = (8, 64, 128, 128), (8, 3, 256, 256), (1, 3, 1024, 1024)
CASES = [
    *(
        FlowCase(*_FEATURES, channels_last=last, direction=direction, main=direction == "forward")
        for direction in ("forward", "backward", "both")
        for last in (False, True)
    ),
    FlowCase(*_IMAGES, main=True),
    FlowCase(*_IMAGES, direction="backward"),
    FlowCase(*_IMAGES, channels_last=True),
    FlowCase(*_PHOTO, main=True),
    FlowCase(*_FEATURES, mode="gate"),
    *(FlowCase(*_FEATURES, mode="expand", channels_last=last) for last in (False, True)),
    FlowCase(*_FEATURES, channels_last=True, dtype=torch.bfloat16),
]
DIFFERENTIABLE = ("image", "flow")


def inputs(case: FlowCase, device: str, seed: int = 0) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(seed)
    stored = (case.N, case.C, case.H, case.W)
    if case.channels_last:
        stored = (case.N, case.H, case.W, case.C)
    image = torch.randn(stored, generator=random).to(case.dtype)
    if case.channels_last:
        image = image.movedim(-1, 1)
    nodes = torch.rand(case.N, 2, 6, 6, generator=random) * 2 - 1
    size = (case.H, case.W)
    flow = F.interpolate(nodes, size, mode="bicubic", align_corners=True) * 0.08 * max(size)
    rough = torch.rand(case.N, 1, 6, 6, generator=random) * 3
    smooth = F.interpolate(rough, size, mode="bicubic", align_corners=True)[:, 0]
    seen = smooth.clamp(0, 2).to(torch.uint8)
    flow = flow.double() if case.dtype == torch.float64 else flow
    return {"image": image.to(device), "flow": flow.to(device), "visibility": seen.to(device)}


def reference(case: FlowCase, image: Tensor, flow: Tensor, visibility: Tensor) -> tuple[Tensor]:
    return (pk.reference.flow_warp(image, flow, visibility, mode=case.mode),)


def _seen(out: Tensor, visibility: Tensor, mode: str) -> tuple[Tensor]:
    """What a gate or an expansion takes without an op of its own."""
    v = visibility[:, None]
    if mode == "gate":
        return (out * (v < 2),)
    if mode == "expand":
        return (torch.cat([out * (v == 0), out * (v == 1)], 1),)
    return (out,)


def grid_sample(image: Tensor, flow: Tensor, visibility: Tensor, mode: str) -> tuple[Tensor]:
    """The usual function: a grid of normalized coordinates, and grid_sample."""
    H, W = image.shape[2:]
    kind = {"dtype": flow.dtype, "device": flow.device}
    y, x = torch.meshgrid(torch.arange(H, **kind), torch.arange(W, **kind), indexing="ij")
    grid = torch.stack(
        [(x + flow[:, 0]) * (2 / (W - 1)) - 1, (y + flow[:, 1]) * (2 / (H - 1)) - 1], -1
    )
    out = F.grid_sample(image.to(flow.dtype), grid, align_corners=True)
    return _seen(out.to(image.dtype), visibility, mode)


_POSITIONS: dict[tuple, tuple[Tensor, Tensor]] = {}


def prepared_grid(image: Tensor, flow: Tensor, visibility: Tensor, mode: str) -> tuple[Tensor]:
    """The same with the pixels' own coordinates kept, and one pass for the grid."""
    H, W = image.shape[2:]
    key = (H, W, flow.dtype, flow.device)
    if key not in _POSITIONS:
        kind = {"dtype": flow.dtype, "device": flow.device}
        y, x = torch.meshgrid(
            torch.linspace(-1, 1, H, **kind), torch.linspace(-1, 1, W, **kind), indexing="ij"
        )
        scale = torch.tensor([2 / (W - 1), 2 / (H - 1)], **kind)
        _POSITIONS[key] = torch.stack([x, y], -1), scale
    position, scale = _POSITIONS[key]
    grid = torch.addcmul(position, flow.permute(0, 2, 3, 1), scale)
    out = F.grid_sample(image.to(flow.dtype), grid, align_corners=True)
    return _seen(out.to(image.dtype), visibility, mode)


def kornia_remap(image: Tensor, flow: Tensor, visibility: Tensor, mode: str) -> tuple[Tensor]:
    from kornia.geometry.transform import remap

    H, W = image.shape[2:]
    kind = {"dtype": flow.dtype, "device": flow.device}
    y, x = torch.meshgrid(torch.arange(H, **kind), torch.arange(W, **kind), indexing="ij")
    out = remap(image, x + flow[:, 0], y + flow[:, 1], align_corners=True)
    return _seen(out, visibility, mode)


def cv2_remap(images: list, x: list, y: list) -> tuple[list]:
    """cv2.remap of float HWC images, one at a time (it threads within an image)."""
    import cv2

    options = (cv2.INTER_LINEAR, None, cv2.BORDER_CONSTANT, 0)
    return ([cv2.remap(*three, *options) for three in zip(images, x, y, strict=True)],)


def _cv2_images(tensors: tuple) -> tuple:
    image, flow, _ = tensors
    H, W = image.shape[2:]
    y, x = torch.meshgrid(torch.arange(H), torch.arange(W), indexing="ij")
    images = [each.movedim(0, -1).contiguous().numpy() for each in image.detach()]
    where = (flow.detach() + torch.stack([x, y])).float().unbind(1)
    return (images, *([each.contiguous().numpy() for each in axis] for axis in where))


def _from_cv2(outputs: tuple) -> tuple[Tensor]:
    images = torch.stack([torch.from_numpy(image) for image in outputs[0]])
    return (images.view(*images.shape[:3], -1).movedim(-1, 1),)


def providers(case: FlowCase, device: str) -> list[Provider]:
    assert case.mode in MODES

    def pose_kernels(image: Tensor, flow: Tensor, visibility: Tensor) -> tuple[Tensor]:
        return (pk.flow_warp(image, flow, visibility, mode=case.mode),)

    def with_mode(call):
        return lambda *tensors: call(*tensors, case.mode)

    found = [
        *ours("flow_warp", pose_kernels, device),
        Provider("grid_sample", "eager", with_mode(grid_sample)),
        Provider("grid_sample, kept grid", "smart", with_mode(prepared_grid)),
    ]
    if case.dtype in (torch.float32, torch.float64):
        remap = with_mode(kornia_remap)
        found.append(Provider("kornia remap", "peer", remap, available="kornia"))
    plain = case.mode == "plain" and case.direction == "forward"
    if device == "cpu" and case.dtype in (torch.float32, torch.float64) and plain and case.C <= 4:
        found.append(
            Provider(
                "cv2.remap HWC",
                "peer",
                cv2_remap,
                gradients=False,
                float64=False,
                prepare=_cv2_images,
                finish=_from_cv2,
                coordinate_scale=2e5 / coordinate_range(case),  # 2 % of noise, for the note
                note="positions added and images laid out outside the clock; its weights are "
                "rounded to 1/32 of a pixel",
                available="cv2",
            )
        )
    return found


def coordinate_range(case: FlowCase) -> int:
    return max(case.H, case.W)


def longest_sum(case: FlowCase) -> int:
    """Forward 4 taps; where the flow contracts some more pixels fall on one of the image."""
    return 4 if case.direction == "forward" else 64


def bytes_moved(case: FlowCase) -> int:
    """Forward: image and flow, the visibility where it is used; the output written once.

    Backward: what arrives, image and flow read; the gradients of image and flow written once.
    """
    e, geometry = case.dtype.itemsize, 8 if case.dtype == torch.float64 else 4
    image, flow = case.pixels * case.C * e, case.pixels * 2 * geometry
    seen = 0 if case.mode == "plain" else case.pixels
    out = image * (2 if case.mode == "expand" else 1)
    forward, backward = image + flow + seen + out, 2 * image + 2 * flow + seen + out
    return {"forward": forward, "backward": backward, "both": forward + backward}[case.direction]


def flops(case: FlowCase) -> int:
    """20 per pixel for the weights; per tap and channel 2 forward, 4 backward."""
    forward, backward = case.pixels * (20 + 8 * case.C), case.pixels * (30 + 16 * case.C)
    return {"forward": forward, "backward": backward, "both": forward + backward}[case.direction]
