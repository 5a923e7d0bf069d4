# SPDX-License-Identifier: Apache-2.0
"""Files: DensePose IUV maps, pictures and atlas mosaics. Reads refuse what they cannot be sure of.

An IUV map labels each pixel with a body part I (0 background, 1..24) and surface coordinates U, V.
As an 8-bit picture it holds I as it is and U, V times 255. DensePose writes it through OpenCV, so
a reader that decodes to RGB finds (V, U, I): the order "cv2" here. Others write (I, U, V): "rgb".

Every write is atomic; see `files.py`.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from .files import PathLike, write_files

NUM_PARTS = 24
ATLAS_COLUMNS, ATLAS_ROWS = 4, 6
ORDERS = ("auto", "cv2", "rgb")

_LOSSLESS = ("PNG", "BMP", "PPM", "TIFF")
_HOW_TO_FORCE = 'order="rgb" or order="cv2" (on the command line --iuv-order rgb or cv2)'
# A map whose U or V exceeds this in floating point is taken to hold 0..255, not 0..1: networks
# overshoot 1 a little, and no map in 0..255 stays this small everywhere.
_LARGEST_UNIT_VALUE = 2.0
_LONE_LABELS, _SPILLED_UV = 0.01, 0.5


class IUVError(ValueError):
    """A file is not an IUV map, or it is not certain how to read it. The message says why."""


class IUV(NamedTuple):
    """A DensePose map: ``part`` (H, W) uint8, 0 = background, 1..24; ``uv`` (2, H, W) float32.

    uv is (u, v) in [0, 1] wherever ``part`` is not 0, or NaN where an array file holds NaN; the
    ops ignore such pixels. On the background uv means nothing.
    """

    part: Tensor
    uv: Tensor


def read_iuv(path: PathLike, order: str = "auto") -> IUV:
    """Read a DensePose map from a lossless 8-bit picture, ``.npy`` or ``.npz``.

    Args:
        path: a PNG (BMP, TIFF, PPM) of three 8-bit channels; or an array (3, H, W) or (H, W, 3) of
            channels I, U, V, in ``.npz`` under the key ``iuv`` or as the only array. Integer
            arrays hold U and V as 0..255; floating point ones as 0..1, or as 0..255 when a value
            on the body is above 2.
        order: channels of a picture as decoded to RGB. "cv2": (V, U, I), what DensePose writes.
            "rgb": (I, U, V). "auto": the one whose label channel stays within 0..24; when both do
            or none does, the file is refused. Ignored for arrays.

    Returns:
        :class:`IUV` on the CPU.

    Raises:
        IUVError: a lossy or resampled picture (labels cannot survive that), a wrong mode or shape,
            labels outside 0..24, or an order that cannot be told; how to force it is said.
        ValueError: unknown order, damaged file. OSError: the file cannot be opened.
    """
    if order not in ORDERS:
        raise ValueError(f"order must be one of {', '.join(map(repr, ORDERS))}, got {order!r}")
    if Path(path).suffix.lower() in (".npy", ".npz"):
        return _iuv_from_array(path, _load_array(path))
    labels, uv = _split_channels(path, _load_iuv_picture(path), order)
    if _looks_resampled(labels, uv):
        raise IUVError(
            f"IUV map {path}: the labels are noisy along the edges of the parts; it looks as if "
            "the map was once a JPEG or was resized with interpolation. Labels cannot be restored: "
            "use the original PNG or array, and resize_iuv to change its size"
        )
    return IUV(
        torch.from_numpy(labels.copy()),
        torch.from_numpy(uv.transpose(2, 0, 1).copy()).float() / 255,
    )


def write_iuv(path: PathLike, part: Tensor, uv: Tensor, order: str = "cv2") -> None:
    """Write a DensePose map as 8-bit PNG, or losslessly as ``.npy`` / ``.npz`` (key ``iuv``).

    Args:
        path: ends in .png, .npy or .npz. Written atomically.
        part: (H, W), any integer dtype, 0..24.
        uv: (2, H, W) floating point in [0, 1]; a PNG rounds it to 1/255. A PNG cannot hold a
            non-finite coordinate: such a pixel becomes background, as the ops take it.
        order: of a PNG's channels decoded as RGB: "cv2" (V, U, I), as DensePose does, or "rgb".

    Raises:
        ValueError: shape, label, order or file name ending. OSError: the file cannot be written.
    """
    if order not in ORDERS[1:]:
        raise ValueError(f"order must be 'cv2' or 'rgb', got {order!r}")
    if part.dim() != 2 or tuple(uv.shape) != (2, *part.shape):
        raise ValueError(
            f"part must be (H, W) and uv (2, H, W), got {tuple(part.shape)} and {tuple(uv.shape)}"
        )
    if part.numel() and not 0 <= int(part.min()) <= int(part.max()) <= NUM_PARTS:
        raise ValueError(
            f"part must hold labels 0..{NUM_PARTS}, got {int(part.min())}..{int(part.max())}"
        )
    labels = part.detach().cpu().numpy().astype(np.uint8)
    coordinates = uv.detach().cpu().float().numpy()
    suffix = Path(path).suffix.lower()
    if suffix in (".npy", ".npz"):
        array = np.concatenate((labels[None].astype(np.float32), coordinates))
        buffer = io.BytesIO()
        np.save(buffer, array) if suffix == ".npy" else np.savez_compressed(buffer, iuv=array)
        write_files({path: buffer.getvalue()})
        return
    if suffix != ".png":
        raise ValueError(f"an IUV map is written as .png, .npy or .npz, not as {Path(path).name}")
    finite = np.isfinite(coordinates).all(0)
    u, v = np.where(finite, coordinates.clip(0, 1) * 255, 0).round().astype(np.uint8)
    channels = (np.where(finite, labels, 0).astype(np.uint8), u, v)
    pixels = np.stack(channels if order == "rgb" else channels[::-1], -1)
    write_files({path: encode_picture(path, pixels)})


def resize_iuv(iuv: IUV, size: tuple[int, int]) -> IUV:
    """Resize a map to (height, width), each new pixel taking the nearest old one whole.

    Labels and coordinates are never mixed: a mean across a seam between parts is no body point.
    """
    rows, columns = (
        ((torch.arange(new) + 0.5) * old / new).long().clamp(max=old - 1).to(iuv.part.device)
        for new, old in zip(size, iuv.part.shape)
    )
    return IUV(iuv.part[rows][:, columns], iuv.uv[:, rows][:, :, columns])


def _load_iuv_picture(path: PathLike) -> NDArray[np.uint8]:
    image = _load_picture(path, "IUV map")
    if image.format not in _LOSSLESS:
        raise IUVError(
            f"IUV map {path} is a {image.format}: lossy compression changes part labels, and they "
            "cannot be restored. Save the map as PNG, .npy or .npz from the start"
        )
    if image.mode == "RGBA" and image.getchannel("A").getextrema() == (255, 255):
        image = image.convert("RGB")
    if image.mode != "RGB":
        kind = {"L": "grayscale", "1": "black and white", "P": "a palette", "RGBA": "transparency"}
        raise IUVError(
            f"IUV map {path} must have three 8-bit channels (part, U, V), but its mode is "
            f"{image.mode} ({kind.get(image.mode, 'another pixel format')})"
        )
    if (bits := _png_bits(path)) != 8:
        raise IUVError(
            f"IUV map {path} must have three 8-bit channels (part, U, V), but it has {bits} bits "
            "per channel"
        )
    return np.asarray(image)


def _split_channels(path: PathLike, pixels: NDArray[np.uint8], order: str) -> tuple[Any, Any]:
    """Labels (H, W) and uv (H, W, 2), both uint8."""
    first, last = (int(pixels[..., c].max(initial=0)) for c in (0, 2))
    readings = f"in RGB order (I, U, V) labels up to {first}, in cv2 order (V, U, I) up to {last}"
    fits = {"rgb": first <= NUM_PARTS, "cv2": last <= NUM_PARTS}
    if order == "auto":
        if fits["rgb"] and fits["cv2"] and max(first, last) > 0:
            raise IUVError(
                f"IUV map {path} can be read both ways: {readings}, and DensePose labels are 0.."
                f"{NUM_PARTS}. Say which it is: {_HOW_TO_FORCE}"
            )
        if not fits["rgb"] and not fits["cv2"]:
            raise IUVError(
                f"IUV map {path} cannot be read either way: {readings}, but DensePose labels are "
                f"0..{NUM_PARTS}. Is it another picture, or was the map saved as JPEG or resized "
                f"with interpolation? An order can be forced with {_HOW_TO_FORCE}, but the labels "
                "must fit it"
            )
        order = "rgb" if fits["rgb"] else "cv2"
    elif not fits[order]:
        other = "cv2" if order == "rgb" else "rgb"
        hint = f"; order {other!r} would fit" if fits[other] else ""
        raise IUVError(
            f"IUV map {path} does not fit order {order!r}: {readings}, but DensePose labels are "
            f"0..{NUM_PARTS}{hint}"
        )
    return (
        (pixels[..., 0], pixels[..., 1:])
        if order == "rgb"
        else (pixels[..., 2], pixels[..., 1::-1])
    )


def _looks_resampled(labels: NDArray[np.uint8], uv: NDArray[np.uint8]) -> bool:
    """True for the two marks that JPEG and interpolation leave together at the edges of parts.

    Labels unlike all four neighbors: true maps have under 0.1 % of them at full size, JPEG 15 % and
    more, bilinear resizing 4 % and more. And U, V that spill a little way over the background: true
    maps have none, or all of it in maps that were never masked.
    """
    body = labels > 0
    if not body.any() or body.all():
        return False
    ring = np.pad(labels.astype(np.int16), 1, constant_values=-1)
    near = (ring[:-2, 1:-1], ring[2:, 1:-1], ring[1:-1, :-2], ring[1:-1, 2:])
    alone = body & ~np.any([side == labels for side in near], axis=0)
    spilled = uv.any(-1) & ~body
    return bool(
        alone.sum() > _LONE_LABELS * body.sum() and 0 < spilled.sum() < _SPILLED_UV * (~body).sum()
    )


def _load_array(path: PathLike) -> NDArray[Any]:
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            names = loaded.files
            if "iuv" in names or len(names) == 1:
                return loaded["iuv" if "iuv" in names else names[0]]
    except FileNotFoundError:
        raise FileNotFoundError(f"IUV map {path}: no such file") from None
    except OSError as error:
        raise OSError(f"IUV map {path} cannot be read: {error.strerror or error}") from None
    except Exception as error:  # whatever zipfile, zlib and numpy raise on damaged bytes
        raise ValueError(f"IUV map {path} is damaged or no plain array file: {error}") from None
    raise IUVError(
        f"IUV map {path} must hold one array, or one named iuv; it holds "
        f"{', '.join(names) or 'none'}"
    )


def _iuv_from_array(path: PathLike, array: NDArray[Any]) -> IUV:
    shape = f"({', '.join(map(str, array.shape))})"
    if array.dtype.kind not in "uif":
        raise IUVError(f"IUV map {path} must hold numbers, got an array of {array.dtype}")
    if array.ndim != 3 or 3 not in (array.shape[0], array.shape[2]):
        raise IUVError(
            f"IUV map {path} must be (3, H, W) or (H, W, 3) with channels I, U, V, got {shape}"
        )
    if array.shape[0] == array.shape[2]:
        raise IUVError(
            f"IUV map {path} has shape {shape}: it can be read as (3, H, W) and as (H, W, 3). Save "
            "it as a PNG, or with more rows"
        )
    if array.size == 0:
        raise IUVError(f"IUV map {path} has no pixels: its shape is {shape}")
    if array.shape[0] != 3:
        array = array.transpose(2, 0, 1)
    labels, uv = array[0].astype(np.float64), array[1:].astype(np.float32)
    with np.errstate(invalid="ignore"):
        good = (labels == labels.round()) & (labels >= 0) & (labels <= NUM_PARTS)
    if not good.all():
        raise IUVError(
            f"IUV map {path}: channel I must hold whole labels 0..{NUM_PARTS}, got "
            f"{labels[~good][0]:g} at row, column {tuple(map(int, np.argwhere(~good)[0]))}"
        )
    values = uv[:, labels > 0]
    values = values[np.isfinite(values)]
    low, high = float(values.min(initial=0)), float(values.max(initial=0))
    if low < -1 or high > 255:
        raise IUVError(f"IUV map {path}: U and V must be in 0..1 or 0..255, got {low:g}..{high:g}")
    if array.dtype.kind in "ui" or high > _LARGEST_UNIT_VALUE:
        uv /= 255
    return IUV(torch.from_numpy(labels.astype(np.uint8)), torch.from_numpy(uv.clip(0, 1)))


def read_image(path: PathLike) -> Tensor:
    """Read a picture as (3, H, W) float32 in [0, 1], RGB, turned upright by its EXIF tag.

    Transparency is laid over white. 8 bits per channel; more is an error rather than a silent cut.

    Raises ValueError for a damaged file or another pixel format, OSError when it cannot be opened.
    """
    return _to_tensor(_load_rgb(path, "image"))


def write_image(path: PathLike, image: Tensor | NDArray[np.uint8]) -> None:
    """Write (3, H, W) in [0, 1], or uint8 pixels (H, W, 3), atomically; the name's ending decides
    the format. Values outside [0, 1] are clamped, NaN is black.

    Raises ValueError for a wrong shape or an unknown ending, OSError when it cannot be written.
    """
    write_files({path: encode_picture(path, image)})


def read_atlas(path: PathLike) -> Tensor:
    """Read an atlas mosaic as tiles (24, 3, S, S) float32 in [0, 1].

    The mosaic is 4 tiles wide and 6 high, of any side S: part p (counted from 0) is at tile column
    p // 6, tile row p % 6. Within a tile u grows with the column and v against the row.

    Raises ValueError when the picture's sides are not 4 S x 6 S, or as :func:`read_image`.
    """
    picture = _load_rgb(path, "atlas")
    width, height = picture.size
    side = width // ATLAS_COLUMNS
    if side == 0 or (width, height) != (ATLAS_COLUMNS * side, ATLAS_ROWS * side):
        raise ValueError(
            f"atlas {path} must be {ATLAS_COLUMNS} tiles wide and {ATLAS_ROWS} high, of square "
            f"tiles (200: 800 x 1200 pixels), got {width} x {height} (width x height)"
        )
    grid = _to_tensor(picture).reshape(3, ATLAS_ROWS, side, ATLAS_COLUMNS, side)
    return grid.permute(3, 1, 0, 2, 4).reshape(NUM_PARTS, 3, side, side).contiguous()


def write_atlas(path: PathLike, atlas: Tensor) -> None:
    """Write tiles (24, 3, S, S) in [0, 1] as the mosaic that :func:`read_atlas` reads."""
    write_files({path: encode_picture(path, atlas_mosaic(atlas))})


def atlas_mosaic(atlas: Tensor) -> Tensor:
    """Set tiles (24, 3, S, S) into one picture (3, 6 S, 4 S), laid out as in :func:`read_atlas`."""
    side = atlas.shape[-1]
    if tuple(atlas.shape) != (NUM_PARTS, 3, side, side):
        raise ValueError(f"atlas must be ({NUM_PARTS}, 3, S, S), got {tuple(atlas.shape)}")
    grid = atlas.reshape(ATLAS_COLUMNS, ATLAS_ROWS, 3, side, side).permute(2, 1, 3, 0, 4)
    return grid.reshape(3, ATLAS_ROWS * side, ATLAS_COLUMNS * side)


def resize_atlas(atlas: Tensor, size: int) -> Tensor:
    """Resize tiles (24, C, S, S) to side ``size``, bilinearly and each for itself.

    Corner texels stay corners, so a (u, v) keeps its place. Tiles never mix.
    """
    if atlas.shape[-1] == size:
        return atlas
    return F.interpolate(atlas, size=(size, size), mode="bilinear", align_corners=True)


def encode_picture(path: PathLike, image: Tensor | NDArray[np.uint8]) -> bytes:
    """The bytes of a picture file in the format of the path's ending; see :func:`write_image`."""
    if isinstance(image, Tensor):
        if image.dim() != 3 or image.shape[0] != 3 or not image.is_floating_point():
            raise ValueError(
                f"image must be (3, H, W) floating point, got {tuple(image.shape)} {image.dtype}"
            )
        values = image.detach().float().nan_to_num(0).clamp(0, 1).mul(255).round()
        image = values.permute(1, 2, 0).to("cpu", torch.uint8).numpy()
    suffix = Path(path).suffix.lower()
    kind = Image.registered_extensions().get(suffix)
    if kind is None:
        raise ValueError(f"{path}: the name must end in .png, .jpg or another picture format")
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind)
    return buffer.getvalue()


def _load_picture(path: PathLike, what: str) -> Image.Image:
    """The decoded picture; every way of failing becomes one clear line."""
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except FileNotFoundError:
        raise FileNotFoundError(f"{what} {path}: no such file") from None
    except UnidentifiedImageError:
        raise ValueError(f"{what} {path} is not a picture in a format that can be read") from None
    except Image.DecompressionBombError:
        raise ValueError(f"{what} {path} is too large to be opened safely") from None
    except OSError as error:
        if error.errno is not None:
            raise OSError(f"{what} {path} cannot be read: {error.strerror}") from None
        raise ValueError(f"{what} {path} is damaged or cut short: {error}") from None
    except Exception as error:  # Pillow's decoders let SyntaxError, struct.error and others through
        raise ValueError(f"{what} {path} is damaged: {error}") from None


def _load_rgb(path: PathLike, what: str) -> Image.Image:
    image = _load_picture(path, what)
    if image.mode.startswith(("I", "F")) or _png_bits(path) > 8:
        raise ValueError(f"{what} {path} must have 8 bits per channel, but it has more")
    image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert("RGB")


def _png_bits(path: PathLike) -> int:
    """Bits per channel of a PNG, 8 for other files: Pillow cuts 16-bit RGB down without a word."""
    with open(path, "rb") as file:
        header = file.read(25)
    return header[24] if header.startswith(b"\x89PNG\r\n\x1a\n") else 8


def _to_tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float().div(255).contiguous()
