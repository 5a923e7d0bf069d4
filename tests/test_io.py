# SPDX-License-Identifier: Apache-2.0
"""IUV maps, pictures and atlas mosaics: what is read, what is refused and in which words."""

import errno
import io as bytes_io
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pose_kernels import files, io


def rings(side: int = 48) -> np.ndarray:
    """(H, W, 3) uint8 I, U, V: labels 0, 5, 13, 24 in discs about one center, u and v up to 220."""
    y, x = np.mgrid[:side, :side]
    radius = np.hypot(y - side / 2.1, x - side / 1.9) / side
    labels = np.array([24, 13, 5, 0, 0])[np.minimum(radius * 7, 4).astype(int)]
    uv = np.stack((x, y), -1) * 255 // (side - 1) * (labels > 0)[..., None]
    return np.concatenate((labels[..., None], uv), -1).astype(np.uint8)


def save(path: Path, pixels: np.ndarray, **options) -> Path:
    Image.fromarray(pixels).save(path, **options)
    return path


@pytest.mark.parametrize("order", ["rgb", "cv2"])
@pytest.mark.parametrize("asked", ["auto", "same"])
def test_picture_orders(tmp_path, order, asked):
    iuv = rings()
    path = save(tmp_path / "m.png", iuv if order == "rgb" else iuv[..., ::-1].copy())
    part, uv = io.read_iuv(path, order if asked == "same" else asked)
    assert part.dtype == torch.uint8 and uv.dtype == torch.float32
    assert torch.equal(part, torch.from_numpy(iuv[..., 0].copy()))
    assert torch.equal(uv, torch.from_numpy(iuv[..., 1:].copy()).permute(2, 0, 1) / 255)


@pytest.mark.parametrize("order", ["rgb", "cv2"])
def test_written_picture_has_the_channels_of_its_order(tmp_path, order):
    part = torch.tensor([[0, 24], [3, 1]])
    uv = torch.tensor([[[0.0, 1.0], [0.2, 0.4]], [[0.0, 0.6], [0.8, 2.0]]])
    uv[0, 1, 1] = float("nan")
    io.write_iuv(tmp_path / "m.png", part, uv, order)
    pixels = np.asarray(Image.open(tmp_path / "m.png"))
    expected = np.array([[[0, 0, 0], [24, 255, 153]], [[3, 51, 204], [0, 0, 0]]])  # NaN: background
    assert (pixels == (expected if order == "rgb" else expected[..., ::-1])).all()
    back = io.read_iuv(tmp_path / "m.png")
    assert back.part.tolist() == [[0, 24], [3, 0]] and back.uv[1, 1, 0] == 204 / 255


@pytest.mark.parametrize("order", ["auto", "rgb", "cv2"])
def test_all_background_is_a_map_in_either_order(tmp_path, order):
    path = save(tmp_path / "m.png", np.zeros((5, 7, 3), np.uint8))
    part, uv = io.read_iuv(path, order)
    assert part.shape == (5, 7) and uv.shape == (2, 5, 7) and not part.any()


def test_one_pixel_and_opaque_alpha(tmp_path):
    path = save(tmp_path / "m.png", np.array([[[7, 128, 200, 255]]], np.uint8))
    part, uv = io.read_iuv(path)
    assert part.tolist() == [[7]] and uv.flatten().tolist() == pytest.approx([128 / 255, 200 / 255])


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_array_round_trip_keeps_float_coordinates(tmp_path, suffix):
    part, uv = torch.randint(0, 25, (6, 9)), torch.rand(2, 6, 9)
    io.write_iuv(tmp_path / f"m{suffix}", part, uv)
    back = io.read_iuv(tmp_path / f"m{suffix}")
    assert torch.equal(back.part, part.byte()) and torch.equal(back.uv, uv)


def test_array_layouts_and_scales(tmp_path):
    iuv = rings()
    path = tmp_path / "m.npy"
    expected = torch.from_numpy(iuv[..., 1:].copy()).permute(2, 0, 1) / 255
    for array in (
        iuv,
        iuv.transpose(2, 0, 1),
        iuv.astype(np.float64),
        np.concatenate((iuv[..., :1], iuv[..., 1:] / 255), -1),
    ):
        np.save(path, array)
        part, uv = io.read_iuv(path)
        assert torch.equal(part, torch.from_numpy(iuv[..., 0].copy()))
        torch.testing.assert_close(uv, expected, rtol=0, atol=1e-6)
    np.save(path, np.float32([[[2.0, 0.0]], [[1.0004, np.nan]], [[-0.0004, 9e9]]]))  # overshoot
    assert io.read_iuv(path).uv[:, 0, 0].tolist() == [1, 0]
    np.savez(tmp_path / "m.npz", other=iuv)  # the only array of the file
    assert torch.equal(io.read_iuv(tmp_path / "m.npz").part, part)


def picture_case(name: str, pixels: np.ndarray, words: str, order: str = "auto", **options):
    return pytest.param(name, pixels, order, words, options, id=words.split(" ")[0] + "-" + name)


DIM = rings() // 11  # every channel up to 24
BRIGHT = np.maximum(rings(), 99)


@pytest.mark.parametrize(
    "name, pixels, order, words, options",
    [
        picture_case(
            "both.png",
            DIM,
            "can be read both ways: in RGB order (I, U, V) labels up to 2, in cv2 order (V, U, I) "
            'up to 21, and DensePose labels are 0..24. Say which it is: order="rgb" or '
            'order="cv2" (on the command line --iuv-order rgb or cv2)',
        ),
        picture_case(
            "neither.png",
            BRIGHT,
            "cannot be read either way: in RGB order (I, U, V) labels up to 99, in cv2 order "
            "(V, U, I) up to 233, but DensePose labels are 0..24",
        ),
        picture_case(
            "forced.png",
            rings(),
            "does not fit order 'cv2': in RGB order (I, U, V) labels up to 24, in cv2 order "
            "(V, U, I) up to 233, but DensePose labels are 0..24; order 'rgb' would fit",
            "cv2",
        ),
        picture_case(
            "map.jpg", rings(), "is a JPEG: lossy compression changes part labels", quality=95
        ),
        picture_case("gray.png", rings()[..., 0], "but its mode is L (grayscale)"),
        picture_case(
            "clear.png", np.concatenate((rings(), rings()[..., :1]), -1), "is RGBA (transparency)"
        ),
        picture_case("deep.png", rings()[..., 0].astype(np.uint16), "but its mode is I;16"),
        picture_case("palette.gif", rings()[..., 0], "is a GIF: lossy compression changes part"),
    ],
)
def test_refused_pictures(tmp_path, name, pixels, order, words, options):
    path = save(tmp_path / name, pixels, **options)
    with pytest.raises(io.IUVError) as caught:
        io.read_iuv(path, order)
    assert words in str(caught.value) and str(path) in str(caught.value)


def test_palette_and_sixteen_bit_pngs(tmp_path):
    Image.fromarray(rings()).quantize(64).save(tmp_path / "p.png")
    with pytest.raises(io.IUVError, match=r"its mode is P \(a palette\)"):
        io.read_iuv(tmp_path / "p.png")
    cv2 = pytest.importorskip("cv2")
    cv2.imwrite(str(tmp_path / "d.png"), rings().astype(np.uint16) * 257)
    with pytest.raises(io.IUVError, match="but it has 16 bits per channel"):
        io.read_iuv(tmp_path / "d.png")
    with pytest.raises(ValueError, match="must have 8 bits per channel, but it has more"):
        io.read_image(tmp_path / "d.png")


@pytest.mark.parametrize("order", ["auto", "rgb", "cv2"])
@pytest.mark.parametrize("quality", [100, 90, 50])
def test_map_that_was_once_a_jpeg_is_refused(tmp_path, order, quality):
    for labels in (24, 12):  # JPEG lifts labels of 24 above the range; lower ones must be noticed
        iuv = np.minimum(rings(), np.array([labels, 255, 255], np.uint8))
        buffer = bytes_io.BytesIO()
        Image.fromarray(iuv if order != "cv2" else iuv[..., ::-1].copy()).save(
            buffer, "JPEG", quality=quality, subsampling=0
        )
        path = save(tmp_path / "m.png", np.asarray(Image.open(buffer)))
        with pytest.raises(io.IUVError, match="DensePose labels are 0..24|once a JPEG"):
            io.read_iuv(path, order)


def test_map_resized_with_interpolation_is_refused_and_nearest_is_not(tmp_path):
    image = Image.fromarray(rings(96))
    image.resize((37, 37), Image.Resampling.BILINEAR).save(tmp_path / "m.png")
    with pytest.raises(io.IUVError, match="noisy along the edges of the parts"):
        io.read_iuv(tmp_path / "m.png", "rgb")
    image.resize((37, 37), Image.Resampling.NEAREST).save(tmp_path / "m.png")
    assert io.read_iuv(tmp_path / "m.png", "rgb").part.shape == (37, 37)


@pytest.mark.parametrize(
    "array, words",
    [
        (np.zeros((4, 5)), "must be (3, H, W) or (H, W, 3) with channels I, U, V, got (4, 5)"),
        (
            np.zeros((4, 5, 4)),
            "must be (3, H, W) or (H, W, 3) with channels I, U, V, got (4, 5, 4)",
        ),
        (np.zeros((3, 5, 3)), "has shape (3, 5, 3): it can be read as (3, H, W) and as (H, W, 3)"),
        (np.zeros((3, 0, 5)), "has no pixels: its shape is (3, 0, 5)"),
        (np.full((3, 2, 2), 25), "must hold whole labels 0..24, got 25 at row, column (0, 0)"),
        (np.full((3, 2, 2), 0.5), "must hold whole labels 0..24, got 0.5 at row, column (0, 0)"),
        (np.full((3, 2, 2), np.nan), "must hold whole labels 0..24, got nan"),
        (np.array([[[1]], [[-7]], [[0]]]), "U and V must be in 0..1 or 0..255, got -7..0"),
        (np.array([[[1]], [[256]], [[0]]]), "U and V must be in 0..1 or 0..255, got 0..256"),
        (np.zeros((3, 2, 2), complex), "must hold numbers, got an array of complex128"),
    ],
)
def test_refused_arrays(tmp_path, array, words):
    np.save(tmp_path / "m.npy", array)
    with pytest.raises(io.IUVError) as caught:
        io.read_iuv(tmp_path / "m.npy")
    assert words in str(caught.value)


def test_refused_archives(tmp_path):
    np.savez(tmp_path / "two.npz", a=rings(), b=rings())
    with pytest.raises(io.IUVError, match="one array, or one named iuv; it holds a, b"):
        io.read_iuv(tmp_path / "two.npz")
    np.save(tmp_path / "o.npy", np.array([{}]))
    for name, data in (("bad.npz", b"PK\x03\x04 not a zip"), ("empty.npy", b"")):
        (tmp_path / name).write_bytes(data)
    for name in ("o.npy", "bad.npz", "empty.npy"):
        with pytest.raises(ValueError, match=f"{name} is damaged or no plain array file"):
            io.read_iuv(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="IUV map .*none.npy: no such file"):
        io.read_iuv(tmp_path / "none.npy")


@pytest.mark.parametrize("read", [io.read_iuv, io.read_image, io.read_atlas])
def test_damaged_and_missing_pictures(tmp_path, read):
    noise = np.random.default_rng(0).integers(0, 255, (60, 40, 3), dtype=np.uint8)
    whole = save(tmp_path / "w.png", noise).read_bytes()
    path = tmp_path / "cut.png"
    for length in (20, 60, len(whole) // 2, len(whole) - 30):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="cut.png is (damaged|not a picture)"):
            read(path)
    path.write_bytes(b"hello")
    with pytest.raises(ValueError, match="cut.png is not a picture in a format that can be read"):
        read(path)
    with pytest.raises(FileNotFoundError, match="none.png: no such file"):
        read(tmp_path / "none.png")
    with pytest.raises(OSError, match="cannot be read: Is a directory"):
        read(tmp_path)


def test_orders_and_shapes_of_writing_are_checked(tmp_path):
    part, uv = torch.ones(4, 5, dtype=torch.long), torch.zeros(2, 4, 5)
    for call, words in (
        (lambda: io.read_iuv("m.png", "bgr"), "order must be one of 'auto', 'cv2', 'rgb'"),
        (
            lambda: io.write_iuv(tmp_path / "m.png", part, uv, "auto"),
            "order must be 'cv2' or 'rgb'",
        ),
        (lambda: io.write_iuv(tmp_path / "m.png", part, uv[:1]), r"got \(4, 5\) and \(1, 4, 5\)"),
        (lambda: io.write_iuv(tmp_path / "m.png", part * 25, uv), "labels 0..24, got 25..25"),
        (lambda: io.write_iuv(tmp_path / "m.jpg", part, uv), ".png, .npy or .npz, not as m.jpg"),
        (lambda: io.write_image(tmp_path / "m.what", uv[[0, 0, 1]]), "must end in .png"),
        (lambda: io.write_image(tmp_path / "m.png", uv), r"must be \(3, H, W\) floating point"),
        (lambda: io.write_atlas(tmp_path / "m.png", uv), r"atlas must be \(24, 3, S, S\)"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
    assert list(tmp_path.iterdir()) == []


def test_resize_iuv_takes_whole_pixels():
    part = torch.arange(1, 7).view(2, 3)
    uv = torch.stack((part / 10, part / 20))
    bigger = io.resize_iuv(io.IUV(part, uv), (4, 6))
    assert torch.equal(bigger.part, part.repeat_interleave(2, 0).repeat_interleave(2, 1))
    assert torch.equal(bigger.uv, torch.stack((bigger.part / 10, bigger.part / 20)))
    smaller = io.resize_iuv(bigger, (2, 3))
    assert torch.equal(smaller.part, part) and torch.equal(smaller.uv, uv)


def test_images(tmp_path):
    image = torch.rand(3, 5, 4)
    io.write_image(tmp_path / "a.png", image)
    torch.testing.assert_close(io.read_image(tmp_path / "a.png"), image, rtol=0, atol=0.51 / 255)
    io.write_image(
        tmp_path / "a.png", torch.full((3, 1, 2), float("nan")).index_fill(2, torch.tensor(1), 7)
    )
    assert io.read_image(tmp_path / "a.png").tolist() == [[[0, 1]]] * 3
    clear = np.array([[[10, 20, 30, 0], [10, 20, 30, 255]]], np.uint8)
    assert io.read_image(save(tmp_path / "b.png", clear))[:, 0].mul(255).T.tolist() == [
        [255, 255, 255],
        [10, 20, 30],
    ]
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: the first row is the right side
    save(tmp_path / "c.png", np.arange(18, dtype=np.uint8).reshape(2, 3, 3), exif=exif)
    assert (io.read_image(tmp_path / "c.png")[0] * 255).round().tolist() == [
        [9, 0],
        [12, 3],
        [15, 6],
    ]


@pytest.mark.parametrize("side", [1, 7])
def test_atlas_layout(tmp_path, side):
    tiles = torch.arange(24).div(32).view(24, 1, 1, 1).expand(24, 3, side, side)
    io.write_atlas(tmp_path / "a.png", tiles)
    pixels = np.asarray(Image.open(tmp_path / "a.png"))
    assert pixels.shape == (6 * side, 4 * side, 3)
    for part in range(24):
        block = pixels[part % 6 * side :, part // 6 * side :][:side, :side]
        assert (block == round(part / 32 * 255)).all()
    torch.testing.assert_close(io.read_atlas(tmp_path / "a.png"), tiles, rtol=0, atol=0.51 / 255)
    texels = torch.rand(24, 3, side, side).mul(255).round() / 255  # and the inside of a tile
    io.write_atlas(tmp_path / "a.png", texels)
    assert torch.equal(io.read_atlas(tmp_path / "a.png"), texels)


@pytest.mark.parametrize("size", [(8, 13), (12, 8), (3, 2), (9, 13)])
def test_atlas_of_a_wrong_shape(tmp_path, size):
    path = save(tmp_path / "a.png", np.zeros((size[1], size[0], 3), np.uint8))
    with pytest.raises(ValueError, match=f"4 tiles wide and 6 high.*got {size[0]} x {size[1]}"):
        io.read_atlas(path)


def test_resized_tiles_do_not_mix_and_keep_their_corners():
    tiles = torch.rand(24, 3, 5, 5)
    tiles[3] = 0
    larger = io.resize_atlas(tiles, 9)
    assert torch.equal(larger[..., ::2, ::2], tiles) and not larger[3].any()
    assert io.resize_atlas(tiles, 5) is tiles


def test_writes_are_atomic(tmp_path, monkeypatch):
    old = tmp_path / "a.png"
    old.write_bytes(b"good")
    calls = []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="cannot write .*b.png: No space left on device"):
        files.write_files({old: b"new", tmp_path / "b.png": b"other"})
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"a.png": b"good"}
    monkeypatch.undo()
    files.write_files({old: b"new", tmp_path / "b.png": b"other"})
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {
        "a.png": b"new",
        "b.png": b"other",
    }
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="cannot write .*folder: it is a folder"):
        files.write_files({old: b"third", tmp_path / "folder": b""})
    assert old.read_bytes() == b"new" and len(list(tmp_path.iterdir())) == 3


def test_new_files_have_the_usual_permissions(tmp_path):
    (tmp_path / "plain").touch()
    files.write_files({tmp_path / "a": b""})
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_folders_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="cannot write into folder .*file: File exists"):
        files.open_folder(tmp_path / "file")
    with pytest.raises(OSError, match="cannot write into folder .*deep: Not a directory"):
        files.open_folder(tmp_path / "file" / "deep")
    if os.geteuid():
        tmp_path.chmod(0o500)
        with pytest.raises(OSError, match="Permission denied"):
            files.open_folder(tmp_path)
        tmp_path.chmod(0o700)
    assert [p.name for p in files.open_folder(tmp_path / "new" / "deep").parent.iterdir()] == [
        "deep"
    ]
