# SPDX-License-Identifier: Apache-2.0
"""Clips of 3D joints: read from ``.npz``, matched to a skeleton, placed in the 256-pixel cube."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .files import PathLike
from .skeleton import FRAME
from .skeleton_tables import SKELETONS, Skeleton, skeleton_named

MARGIN = 0.12  # of the cube's side, on every side: hands, feet and flesh beyond the joints


class Clip(NamedTuple):
    """joints (T, J, 3) float32 in the order of the skeleton's joints; NaN where missing."""

    joints: Tensor
    skeleton: Skeleton


def load_clip(path: PathLike, skeleton: str = "auto") -> Clip:
    """Read the array ``joints`` (T, J, 3), and ``names`` (J,) if it is there.

    skeleton: a name out of ``SKELETONS``. With "auto", the one whose joints are all among
        ``names``, else the one with as many joints. Joints are taken by name where the names hold
        all of the skeleton's, else in their order.

    Raises ValueError or OSError with one clear line.
    """
    joints, names = _arrays(path)
    given = [] if names is None else [str(name) for name in names]
    T, J = joints.shape[:2]
    if skeleton != "auto":
        body = skeleton_named(skeleton)
    else:
        fitting = [s for s in SKELETONS.values() if given and set(s.joints) <= set(given)]
        fitting = fitting or [s for s in SKELETONS.values() if len(s.joints) == J]
        if not fitting:
            known = ", ".join(f"{s.name} ({len(s.joints)})" for s in SKELETONS.values())
            raise ValueError(f"{path}: no skeleton of {J} joints is known, only {known}")
        body = fitting[0]
    if set(body.joints) <= set(given):
        joints = joints[:, [given.index(name) for name in body.joints]]
    elif J != len(body.joints):
        raise ValueError(f"{path}: skeleton {body.name} has {len(body.joints)} joints, got {J}")
    return Clip(torch.from_numpy(np.ascontiguousarray(joints)), body)


def _arrays(path: PathLike) -> tuple[NDArray[np.float32], NDArray[np.str_] | None]:
    held: list[str] = []
    names = None
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            raise ValueError("it holds one array without a name; save it with numpy.savez")
        with loaded:
            held = loaded.files
            joints = loaded["joints"] if "joints" in held else None
            names = loaded["names"] if "names" in held else None
    except FileNotFoundError:
        raise FileNotFoundError(f"clip {path}: no such file") from None
    except OSError as error:
        raise OSError(f"clip {path} cannot be read: {error.strerror or error}") from None
    except Exception as error:  # whatever zipfile, zlib and numpy raise on damaged bytes
        raise ValueError(f"clip {path} is damaged or no .npz of plain arrays: {error}") from None
    if joints is None:
        raise ValueError(
            f"clip {path} must hold an array named joints, (T, J, 3); it holds "
            f"{', '.join(held) or 'nothing'}"
        )
    if joints.dtype.kind not in "uif" or joints.ndim != 3 or joints.shape[2] != 3:
        raise ValueError(
            f"clip {path}: joints must be numbers (T, J, 3), got {joints.shape} {joints.dtype}"
        )
    if names is not None and (names.shape != joints.shape[1:2] or names.dtype.kind not in "US"):
        raise ValueError(
            f"clip {path}: names must be {joints.shape[1]} strings as joints, "
            f"got {names.shape} {names.dtype}"
        )
    return joints.astype(np.float32), names


def place_in_frame(joints: Tensor, *, margin: float = MARGIN) -> Tensor:
    """Metric joints, y up, into the cube of 256 pixels: x right, y down, z away from the viewer.

    The viewer looks along -z of the given frame, orthographically, so (x, y, z) becomes
    (x, -y, -z): a half-turn, no mirror. Every pose is centered, the middle of its bounding box to
    (128, 128, 128), so where it stands is dropped. One scale is common to all poses: it brings the
    longest side of all bounding boxes to ``256 (1 - 2 margin)`` pixels. Bones thus keep their
    lengths from pose to pose, and the unit of length does not matter.

    Args:
        joints: (..., J, 3), any unit. Those that are not finite are left out of the boxes and
            come back as NaN.
        margin: share of the cube that the joints leave free on each side.

    Returns:
        (..., J, 3) pixels. Differentiable.

    Raises:
        ValueError: joints of another shape, a margin outside [0, 0.5), poses without any extent.

    >>> place_in_frame(torch.tensor([[0.0, 0.0, 5.0], [0.0, 2.0, 5.0]]), margin=0.25)
    tensor([[128., 192., 128.],
            [128.,  64., 128.]])
    """
    if joints.dim() < 2 or joints.shape[-1] != 3 or not joints.is_floating_point():
        raise ValueError(f"joints must be (..., J, 3) floating point, got {tuple(joints.shape)}")
    if not 0 <= margin < 0.5:
        raise ValueError(f"margin must be in [0, 0.5), got {margin}")
    known = joints.isfinite().all(-1, keepdim=True)
    low = torch.where(known, joints, math.inf).amin(-2, keepdim=True)
    high = torch.where(known, joints, -math.inf).amax(-2, keepdim=True)
    extent = (high - low).amax() if joints.numel() else joints.new_zeros(())
    if not extent > 0:
        raise ValueError("joints must spread over some length; these poses have none")
    scale = FRAME * (1 - 2 * margin) / extent
    turned = (joints - (low + high) / 2) * joints.new_tensor([1.0, -1.0, -1.0])
    nan = torch.full((), math.nan, dtype=joints.dtype, device=joints.device)
    return torch.where(known, turned * scale + FRAME / 2, nan)
