# SPDX-License-Identifier: Apache-2.0
"""``python -m pose_kernels``: what a command writes, and one clear line for every user's error."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pose_kernels import files, io
from pose_kernels.__main__ import main
from pose_kernels.commands import doctor, transfer
from pose_kernels.commands.transfer_report import FILES

HEIGHT, WIDTH = 40, 30


@pytest.fixture
def folder(tmp_path) -> Path:
    """a.png and its map a_iuv.png (cv2 order), b.png and b_iuv.png (rgb order), atlas.png."""
    part = torch.zeros(HEIGHT, WIDTH, dtype=torch.long)
    part[6:20, 5:25], part[20:34, 5:25] = 2, 24
    uv = torch.stack(
        (
            torch.linspace(0, 1, WIDTH).expand(HEIGHT, -1),
            torch.linspace(1, 0, HEIGHT)[:, None].expand(-1, WIDTH),
        )
    ) * (part > 0)
    io.write_iuv(tmp_path / "a_iuv.png", part, uv, "cv2")
    io.write_iuv(tmp_path / "b_iuv.png", part.flip(1), uv.flip(2), "rgb")
    image = torch.rand(3, HEIGHT, WIDTH)
    io.write_image(tmp_path / "a.png", image)
    io.write_image(tmp_path / "b.png", image.flip(2))
    io.write_atlas(tmp_path / "atlas.png", torch.rand(24, 3, 12, 12))
    return tmp_path


def listing(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def command(folder: Path, **changes: object) -> list[str]:
    """The whole job with small tiles; None drops an option."""
    options = dict(
        image="a.png",
        iuv="a_iuv.png",
        target_iuv="b_iuv.png",
        target_image="b.png",
        size=32,
        out="o",
    )
    options |= changes
    line = ["transfer"]
    for name, value in options.items():
        if value is not None:
            path = name in ("image", "iuv", "target_iuv", "target_image", "atlas_in", "out")
            line += [f"--{name.replace('_', '-')}", str(folder / value if path else value)]
    return line


def test_transfer_writes_everything(folder, capsys):
    before = listing(folder)
    assert main(command(folder)) == 0
    after = listing(folder)
    assert set(after) - set(before) == {"o", *(f"o/{name}" for name in FILES)}
    assert all(after[name] == before[name] for name in before)

    out = folder / "o"
    for name, size in (("partial", (128, 192)), ("filled", (128, 192))):
        assert Image.open(out / f"{name}_atlas.png").size == size
    assert Image.open(out / "transferred.png").size == (WIDTH, HEIGHT)
    assert Image.open(out / "panel.png").width > 1000
    facts = json.loads((out / "metrics.json").read_text())
    assert facts["size"] == 32 and facts["radius"] == 2
    assert 0 < facts["scores"]["coverage"] <= 1 and facts["scores"]["psnr"] > 10
    assert [stage["name"] for stage in facts["stages"]] == ["raster", "fill", "gather"]

    printed = capsys.readouterr()
    assert printed.err == ""
    for words in (
        "texture transfer onto 30 x 40 pixels, tiles of 32 x 32, on cpu",
        " ms  cpp" if doctor.backends.chosen("uv_splat", "cpu") == "cpp" else " ms  reference",
        f"PSNR {facts['scores']['psnr']:.2f} dB, SSIM {facts['scores']['ssim']:.3f}",
        "mean color",
        "copy of source",
        str(out / "panel.png"),
    ):
        assert words in printed.out


def test_the_pictures_are_those_of_the_python_function(folder):
    assert main(command(folder, samples=1, radius=5)) == 0
    maps = [io.read_iuv(folder / f"{name}_iuv.png") for name in "ab"]
    result = transfer.transfer_texture(
        io.read_image(folder / "a.png"), *maps, 32, samples=1, radius=5
    )
    io.write_image(folder / "t.png", result.image)
    assert (folder / "t.png").read_bytes() == (folder / "o/transferred.png").read_bytes()
    written = io.read_atlas(folder / "o/filled_atlas.png")
    torch.testing.assert_close(written, result.atlas, rtol=0, atol=0.51 / 255)


def test_without_a_true_target_there_are_no_scores(folder, capsys):
    assert main(command(folder, target_image=None)) == 0
    assert json.loads((folder / "o/metrics.json").read_text())["scores"] is None
    assert "scores need --target-image" in capsys.readouterr().out


def test_atlas_alone_keeps_its_own_size(folder):
    only = command(folder, image=None, iuv=None, target_image=None, size=None, atlas_in="atlas.png")
    assert main(only) == 0
    assert set(os.listdir(folder / "o")) == set(FILES) - {"partial_atlas.png"}
    written = (io.read_atlas(folder / name) for name in ("o/filled_atlas.png", "atlas.png"))
    assert torch.equal(*written)


def test_atlas_with_a_photo(folder):
    assert main(command(folder, atlas_in="atlas.png")) == 0
    facts = json.loads((folder / "o/metrics.json").read_text())
    assert facts["size"] == 32 and facts["scores"]["coverage"] == 1


def test_all_background_and_several_sizes(folder):
    Image.new("RGB", (7, 9)).save(folder / "none_iuv.png")
    Image.new("RGB", (7, 9)).save(folder / "none.png")
    assert main(command(folder, image="none.png", iuv="none_iuv.png")) == 0
    facts = json.loads((folder / "o/metrics.json").read_text())  # NaN is null: strict JSON
    assert facts["scores"]["psnr"] is None and facts["scores"]["coverage"] == 0
    assert main(command(folder, target_iuv="none_iuv.png", target_image="none.png")) == 0
    assert Image.open(folder / "o/transferred.png").size == (7, 9)


def test_a_studio_background_is_reported_and_can_be_kept(folder, capsys):
    picture = np.asarray(Image.open(folder / "a.png")).copy()
    picture[:, :7] = picture[:, -7:] = picture[:7] = picture[-7:] = 250
    Image.fromarray(picture).save(folder / "a.png")
    assert main(command(folder)) == 0
    assert "source photo: plain background, seen at" in capsys.readouterr().out
    kept = (folder / "o/partial_atlas.png").read_bytes()
    assert main(command(folder, background="keep")) == 0
    assert "plain background" not in capsys.readouterr().out
    assert (folder / "o/partial_atlas.png").read_bytes() != kept


def lossy(folder: Path) -> None:
    Image.open(folder / "a_iuv.png").save(folder / "a_iuv.jpg", quality=95)


def cut(folder: Path) -> None:
    data = (folder / "a.png").read_bytes()
    (folder / "cut.png").write_bytes(data[: len(data) // 2])


def cut_map(folder: Path) -> None:
    data = (folder / "a_iuv.png").read_bytes()
    (folder / "cut_iuv.png").write_bytes(data[:-40])


def small(folder: Path) -> None:
    Image.open(folder / "a_iuv.png").resize((15, 20), 0).save(folder / "small_iuv.png")


def gray(folder: Path) -> None:
    Image.open(folder / "a_iuv.png").getchannel(2).save(folder / "gray.png")


def blocked(folder: Path) -> None:
    (folder / "o").write_text("a file where the folder should be")


def taken(folder: Path) -> None:
    (folder / "o").mkdir()
    (folder / "o/panel.png").mkdir()


def nothing(folder: Path) -> None:
    pass


@pytest.mark.parametrize(
    "prepare, changes, words",
    [
        (nothing, dict(image="none.png"), "image {}/none.png: no such file"),
        (nothing, dict(iuv="none.npz"), "IUV map {}/none.npz: no such file"),
        (nothing, dict(iuv=None), "--image and --iuv must be given together"),
        (
            nothing,
            dict(image=None, iuv=None),
            "nothing to paint: give --image with --iuv, or --atlas-in, or both",
        ),
        (
            nothing,
            dict(target_iuv=None),
            "the following arguments are required: --target-iuv; see python -m pose_kernels "
            "transfer --help",
        ),
        (
            lossy,
            dict(iuv="a_iuv.jpg"),
            "IUV map {}/a_iuv.jpg is a JPEG: lossy compression changes part labels, and they "
            "cannot be restored. Save the map as PNG, .npy or .npz from the start",
        ),
        (cut, dict(image="cut.png"), "image {}/cut.png is damaged or cut short: "),
        (
            cut_map,
            dict(target_iuv="cut_iuv.png"),
            "IUV map {}/cut_iuv.png is damaged or cut short: ",
        ),
        (
            small,
            dict(iuv="small_iuv.png"),
            "--image {}/a.png is 30 x 40 but --iuv {}/small_iuv.png is 15 x 20 pixels (width x "
            "height); they must be of the same size",
        ),
        (
            small,
            dict(target_iuv="small_iuv.png"),
            "--target-image {}/b.png is 30 x 40 but --target-iuv {}/small_iuv.png is 15 x 20 pixels"
            " (width x height); they must be of the same size",
        ),
        (
            gray,
            dict(iuv="gray.png"),
            "IUV map {}/gray.png must have three 8-bit channels (part, U, V), but its mode is L "
            "(grayscale)",
        ),
        (
            nothing,
            dict(iuv_order="rgb"),
            "IUV map {}/a_iuv.png does not fit order 'rgb': in RGB order (I, U, V) labels up to",
        ),
        (nothing, dict(iuv="a.png"), "IUV map {}/a.png cannot be read either way: in RGB order"),
        (
            nothing,
            dict(atlas_in="a.png"),
            "atlas {}/a.png must be 4 tiles wide and 6 high, of square tiles (200: 800 x 1200 "
            "pixels), got 30 x 40 (width x height)",
        ),
        (nothing, dict(size=0), "--size must be 1..2048, got 0"),
        (nothing, dict(size=2049), "--size must be 1..2048, got 2049"),
        (nothing, dict(radius=-1), "--radius must be 0..2048, got -1"),
        (nothing, dict(samples=9), "--samples must be 1..8, got 9"),
        (
            nothing,
            dict(size="big"),
            "argument --size: invalid int value: 'big'; see python -m pose_kernels transfer --help",
        ),
        (blocked, {}, "cannot write into folder {}/o: File exists"),
        (blocked, dict(out="o/deep"), "cannot write into folder {}/o/deep: Not a directory"),
        (taken, {}, "cannot write {}/o/panel.png: it is a folder"),
    ],
)
def test_every_error_is_one_line_and_leaves_no_trace(folder, capsys, prepare, changes, words):
    prepare(folder)
    before = listing(folder)
    try:
        code = main(command(folder, **changes))
    except SystemExit as stop:  # argparse's way out
        code = stop.code
    printed = capsys.readouterr().err
    assert code == 2
    assert printed.startswith("error: " + words.replace("{}", str(folder)))
    assert printed.count("\n") == 1 and printed.endswith("\n")
    assert listing(folder) == before


def test_inputs_are_never_overwritten(folder, capsys):
    (folder / "a.png").rename(folder / "panel.png")
    before = listing(folder)
    assert main(command(folder, image="panel.png", out=".")) == 2
    assert "panel.png is an input, it would be overwritten" in capsys.readouterr().err
    assert listing(folder) == before


def test_a_full_disk_leaves_the_old_results(folder, capsys, monkeypatch):
    assert main(command(folder)) == 0
    before = listing(folder)
    calls = iter(range(10))

    def full(descriptor):
        if next(calls) == 3:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    assert main(command(folder, size=16)) == 2
    assert capsys.readouterr().err.endswith("panel.png: No space left on device\n")
    assert listing(folder) == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_missing_gpu(folder, capsys):
    assert main(command(folder, device="cuda")) == 2
    assert "error: --device cuda: torch" in capsys.readouterr().err


def test_unknown_command(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["trnasfer"])
    assert stop.value.code == 2 and capsys.readouterr().err.startswith("error: argument command")


@pytest.mark.parametrize("argv", [[], ["doctor"]])
def test_the_doctor_is_the_default(argv, monkeypatch):
    monkeypatch.setattr(doctor, "run", lambda args: 7)
    assert main(argv) == 7


def test_interruption_is_no_traceback(folder, capsys, monkeypatch):
    def stop(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(transfer, "transfer_texture", stop)
    assert main(command(folder)) == 130 and capsys.readouterr().err == "interrupted\n"


def test_as_a_process(folder):
    line = [sys.executable, "-m", "pose_kernels", *command(folder, image="none.png")]
    done = subprocess.run(line, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: image {folder}/none.png: no such file\n"
