# SPDX-License-Identifier: Apache-2.0
"""python -m models.evaluate and models.sample on a run of a small system."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from training_worker import TinyPairs

from models import evaluate, sample, train
from models.batch import to_bytes
from models.metrics import l1, ssim
from models.training.trained import load_trained
from pose_kernels import io

MINE = "training_worker:TinyGan"  # by its place, not by a registered name


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("commands") / "run"
    flags = "--preset tiny --size 16 16 --steps 60 --sheet-every 0 --save-every 1000"
    assert train.main([MINE, *flags.split(), "--out", str(out)]) == 0
    return out


def test_a_run_is_measured_beside_copy_and_mean(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = "--pairs 5 --batch 2 --mean-pairs 7 --split validation".split()
    assert evaluate.main([str(run), *flags]) == 0
    text = capsys.readouterr().out
    assert text.startswith(
        "system: training_worker:TinyGan, preset: tiny, step: 60, weights: averaged, "
        "features: four channels, seed of the run\n"
    )
    assert "training_worker:open_tiny, validation split, 16 x 16, 5 pairs\n" in text
    assert "MS-SSIM " in text and "not measured: it needs sides of at least 161" in text
    found = json.loads((run / "evaluation-validation.json").read_text())
    with (run / "evaluation-validation.csv").open() as file:
        assert [row["metric"] for row in csv.DictReader(file)] == [row["metric"] for row in found]
    values = {(row["method"], row["metric"], row["preset"]): row for row in found}

    # The same by hand: the pairs 0, 2, 4, 7, 9 of 12, and 7 training targets.
    pairs = TinyPairs("validation", (16, 16))
    batch = torch.utils.data.default_collate([pairs[index] for index in (0, 2, 4, 7, 9)])
    training = TinyPairs("train", (16, 16))
    targets = [training[index]["target_image"] for index in (0, 1, 3, 5, 6, 8, 10)]
    mean = torch.stack(targets).mean(0).expand(5, -1, -1, -1)
    with torch.no_grad():
        out = load_trained(run).system.generate(batch)["out"]
    truth = to_bytes(batch["target_image"])
    for method, picture in {
        MINE: out,
        "copy of the source": batch["source_image"],
        "mean of 7 training pictures": mean,
    }.items():
        row = values[method, "SSIM", "dsc"]
        assert row["value"] == pytest.approx(ssim(to_bytes(picture), truth, "dsc").mean().item())
        assert row["pictures"] == 5 and row["run_step"] == "60"
        expected = l1(to_bytes(picture), truth).mean().item()
        assert values[method, "l1", ""]["value"] == pytest.approx(expected, abs=1e-4)
    assert values[MINE, "l1", ""]["value"] < values["copy of the source", "l1", ""]["value"]


def test_averaged_or_last_weights(run: Path) -> None:
    averaged, last = load_trained(run), load_trained(run, average=False)
    assert averaged.about()["run_weights"] == "averaged" and last.about()["run_weights"] == "last"
    ours, theirs = averaged.system.state_dict(), last.system.state_dict()
    assert not torch.equal(ours["first.weight"], theirs["first.weight"])
    assert torch.equal(ours["judge.weight"], theirs["judge.weight"])  # it makes no pictures
    assert torch.equal(ours["features.weight"], theirs["features.weight"])


def test_a_sheet_of_pairs(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "sheet.png"
    assert sample.main([str(run), "--pairs", "3", "--split", "train", "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"written: {out}\n"
    sheet = Image.open(out)
    assert sheet.width > 3 * 96 and 3 * 96 < sheet.height < 4 * 96 + 60


def test_a_photo_of_ones_own(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo, iuv, wanted = (tmp_path / name for name in ("a.png", "a.npy", "b.npy"))
    io.write_image(photo, torch.rand(3, 24, 12))
    io.write_iuv(iuv, torch.ones(24, 12, dtype=torch.uint8), torch.rand(2, 24, 12))
    io.write_iuv(wanted, torch.ones(32, 32, dtype=torch.uint8), torch.rand(2, 32, 32))
    files = ["--source", str(photo), "--source-iuv", str(iuv), "--target-iuv"]
    out = tmp_path / "out.png"
    assert sample.main([str(run), *files, str(wanted), "--out", str(out)]) == 0
    assert Image.open(out).size == (16, 16)
    assert sample.main([str(run), *files, str(iuv), "--out", str(out)]) == 0
    assert Image.open(out).size == (8, 16)  # the shape of the wanted map
    capsys.readouterr()
    assert sample.main([str(run), *files[:2]]) == 2
    assert "belong together" in capsys.readouterr().err
    assert (
        sample.main(
            [str(run), "--source", str(photo), "--source-iuv", str(wanted), *files[4:], str(iuv)]
        )
        == 2
    )
    assert "b.npy is 32 x 32 (width x height), but" in capsys.readouterr().err


def test_errors_of_one_line(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command, flags, words in (
        (evaluate, [str(tmp_path)], "is neither a checkpoint nor a run that has one"),
        (evaluate, [str(run), "--pairs", "13"], "--pairs must be 1..12, which the test split has"),
        (evaluate, [str(run), "--data", "nothing"], "data must be one of deepfashion"),
        (evaluate, [str(run), "--batch", "0"], "--batch must be at least 1"),
        (sample, [str(run), "--pairs", "0"], "--pairs must be at least 1"),
    ):
        assert command.main(flags) == 2
        said = capsys.readouterr().err
        assert words in said and said.count("\n") == 1, said


def test_dense_pose_transfer_on_synthetic_people(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = "dense_pose_transfer --preset tiny --size 32 32 --batch 2 --steps 3 --workers 0"
    flags += " --width 4 --blend-width 4 --sheet-pairs 2 --losses l1 gan"
    assert train.main([*flags.split(), "--out", str(tmp_path)]) == 0
    assert len(list((tmp_path / "sheets").iterdir())) == 3  # at the end of each stage
    assert evaluate.main([str(tmp_path), "--pairs", "2", "--mean-pairs", "2"]) == 0
    assert "copy of the source" in capsys.readouterr().out
