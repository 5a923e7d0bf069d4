# SPDX-License-Identifier: Apache-2.0
"""Runs that are killed, interrupted, or find a damaged checkpoint or a full disk."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from training_worker import TinyPairs

from models.train import main
from models.training import checkpoint

WORKER = Path(__file__).with_name("training_worker.py")
# 12 steps: stages of 4 and 8, a checkpoint after every third step and at the end of a stage
FLAGS = "--preset tiny --deterministic true --save-every 3 --keep 2 --sheet-every 0".split()
NAMES = ["step-00000009", "step-00000012"]  # the two that are left


Answer = dict[str, Any]


@pytest.fixture(scope="module")
def run_jobs() -> Iterator[Callable[..., list[Answer]]]:
    """Runs the command in processes of their own, which may be killed."""
    command = [sys.executable, str(WORKER), "-"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as worker:
        assert worker.stdin and worker.stdout

        def run(*jobs: dict[str, Any]) -> list[Answer]:
            answers = []
            for job in jobs:
                assert worker.stdin and worker.stdout
                worker.stdin.write(json.dumps(job).encode() + b"\n")
                worker.stdin.flush()
                answers.append(json.loads(worker.stdout.readline()))
            return answers

        yield run
        worker.stdin.close()


RunJobs = Callable[..., list[Answer]]


def start(out: Path, *flags: str, **fate: Any) -> dict[str, Any]:
    return {"argv": ["tiny_gan", *FLAGS, "--out", str(out), *flags], **fate}


def resumed(out: Path, *flags: str) -> dict[str, Any]:
    return {"argv": ["tiny_gan", "--resume", "--out", str(out), *flags]}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, run_jobs: RunJobs) -> Path:
    """A run that nothing happened to."""
    out = tmp_path_factory.mktemp("whole") / "run"
    (answer,) = run_jobs(start(out))
    assert answer["code"] == 0, answer["stderr"]
    return out


def same(out: Path, whole: Path) -> None:
    """The same rows, each once, and the same bits of weights, averages and optimizers."""
    assert (out / "losses.csv").read_text() == (whole / "losses.csv").read_text()
    assert checkpoint.names_in(out / "checkpoints") == NAMES
    for file in (whole / "checkpoints" / NAMES[-1]).glob("*.safetensors"):
        expected = load_file(file)
        found = load_file(out / "checkpoints" / NAMES[-1] / file.name)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected), file.name


FATES = {
    "before the first checkpoint": {"kill": "step:2"},
    "within the first file of one": {"kill": "file:4"},
    "with all files and no name": {"kill": "name:3"},
    "with a name, and latest is the one before": {"kill": "latest:3"},
    "between checkpoints, in the second stage": {"kill": "step:8"},
    "by Ctrl-C": {"interrupt": 8},
}


def test_a_run_that_died_goes_on_as_if_nothing_had_been(
    tmp_path: Path, whole: Path, run_jobs: RunJobs
) -> None:
    outs = [tmp_path / str(number) for number in range(len(FATES))]
    jobs = []
    for out, fate in zip(outs, FATES.values()):
        jobs += [start(out, **fate), resumed(out)]
    answers = run_jobs(*jobs)
    for out, (words, fate), died, went_on in zip(outs, FATES.items(), answers[::2], answers[1::2]):
        assert died["code"] == (130 if "interrupt" in fate else -9), (words, died["stderr"])
        assert went_on["code"] == 0, (words, went_on["stderr"])
        assert not list((out / "checkpoints").glob(".step-*")), words
        same(out, whole)
    assert "step 12: " in answers[1]["stdout"]
    assert "no checkpoint yet: starting at step 0" in answers[1]["stderr"]
    assert "interrupted after step 8; --resume goes on from there" in answers[-2]["stderr"]
    assert f"continuing from {outs[-1]}/checkpoints/step-00000008" in answers[-1]["stderr"]


def test_a_damaged_checkpoint_is_named_and_the_one_before_taken(
    tmp_path: Path, whole: Path, run_jobs: RunJobs
) -> None:
    def damaged(name: str, *stems: str) -> Path:
        out = tmp_path / name
        subprocess.run(["cp", "-r", str(whole), str(out)], check=True)
        return out / "checkpoints" / NAMES[-1]

    truncated = damaged("truncated")
    with (truncated / "ema.safetensors").open("r+b") as file:
        file.truncate(100)
    flipped = damaged("flipped")
    content = bytearray((flipped / "model.safetensors").read_bytes())
    content[-1] ^= 1  # a bit of a weight, which nothing but a checksum tells
    (flipped / "model.safetensors").write_bytes(content)
    cut = damaged("cut")
    (cut / "state.json").write_bytes((cut / "state.json").read_bytes()[:50])
    lost = damaged("lost")
    (lost / "optimizer-generator.safetensors").unlink()
    damages = {
        truncated: "is truncated: ema.safetensors has 100 bytes instead of",
        flipped: "is corrupt: model.safetensors has another checksum",
        cut: "is corrupt: state.json cannot be read",
        lost: "is incomplete: ",
    }
    answers = run_jobs(*(resumed(path.parent.parent) for path in damages))
    for (path, words), answer in zip(damages.items(), answers):
        assert answer["code"] == 0, answer["stderr"]
        assert f"warning: checkpoint {path} {words}" in answer["stderr"]
        assert f"continuing from {path.with_name(NAMES[0])}" in answer["stderr"]
        same(path.parent.parent, whole)


def test_when_no_checkpoint_is_whole_nothing_is_touched(
    tmp_path: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    subprocess.run(["cp", "-r", str(whole), str(out)], check=True)
    for state in out.glob("checkpoints/*/state.json"):
        state.write_text("{}")
    assert main(["tiny_gan", "--resume", "--out", str(out)]) == 2
    assert f"no checkpoint in {out / 'checkpoints'} is whole" in capsys.readouterr().err
    assert (out / "losses.csv").read_text() == (whole / "losses.csv").read_text()


def test_a_full_disk_leaves_the_old_checkpoints(
    tmp_path: Path, whole: Path, run_jobs: RunJobs
) -> None:
    out = tmp_path / "run"
    first, full, after = run_jobs(
        start(out, "--stage", "joint", "--steps", "3"),
        {**resumed(out, "--steps", "6"), "largest": 2500},  # the optimizer's file is larger
        resumed(out, "--steps", "6"),
    )
    assert first["code"] == 0, first["stderr"]
    assert full["code"] == 1
    last = full["stderr"].strip().splitlines()[-1]
    assert "cannot write " in last and "File too large" in last and str(out) in last
    assert after["code"] == 0, after["stderr"]
    assert f"continuing from {out}/checkpoints/step-00000003" in after["stderr"]


def test_no_space_within_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = checkpoint.Store(tmp_path, keep=1)
    weights = {"weight": torch.arange(4.0)}
    store.write({"step": 1}, {"model": weights})

    def full(tensors: object, path: Path) -> None:
        path.write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", full)
        with pytest.raises(OSError, match=r"cannot write checkpoint .*2: No space left on device$"):
            store.write({"step": 2}, {"model": weights})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "step-00000001"]
    found, warnings = checkpoint.newest(tmp_path)
    assert found and not warnings and torch.equal(found.files["model"]["weight"], weights["weight"])


def test_views_and_transposes_are_saved_as_they_look(tmp_path: Path) -> None:
    base = torch.arange(12.0).view(3, 4)
    store = checkpoint.Store(tmp_path, keep=1)
    store.write({"step": 1}, {"model": {"whole": base, "row": base[1], "turned": base.T}})
    found, _ = store.newest()
    assert found
    assert torch.equal(found.files["model"]["turned"], base.T)
    assert torch.equal(found.files["model"]["row"], base[1])


def test_only_what_is_left_of_an_epoch_is_loaded(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    subprocess.run(["cp", "-r", str(whole), str(out)], check=True)
    for name in ("step-00000012", "step-00000009"):
        (out / "checkpoints" / name).rename(tmp_path / name)
    (tmp_path / "step-00000009").rename(out / "checkpoints" / "step-00000009")
    (out / "checkpoints" / "latest").write_text("step-00000009\n")
    monkeypatch.setattr(TinyPairs, "loaded", [])
    arguments = ["tiny_gan", "--resume", "--out", str(out), "--deterministic", "false"]
    assert main(arguments) == 0
    assert len(TinyPairs.loaded) == 3 * 4  # three steps of four pairs


def test_what_cannot_change_on_the_way(
    tmp_path: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*flags: str) -> str:
        assert main(["tiny_gan", "--resume", *flags]) == 2
        return capsys.readouterr().err

    here = ("--out", str(whole))
    assert "--batch was 4 and cannot become 2 on the way" in refused(*here, "--batch", "2")
    assert "--width was 4 and cannot become 5 on the way" in refused(*here, "--width", "5")
    assert "the run has --preset tiny" in refused(*here, "--preset", "paper")
    assert "--steps cannot change on the way" in refused(*here, "--steps", "30")
    other = tmp_path / "other"
    subprocess.run(["cp", "-r", str(whole), str(other)], check=True)
    state = other / "checkpoints" / NAMES[-1] / "state.json"
    state.write_text(state.read_text().replace("four channels", "VGG-19, weights of a file"))
    words = "measured by VGG-19, weights of a file, seed of the run, here they would be by four"
    assert words in refused("--out", str(other))
    assert f"{tmp_path}/x holds no run" in refused("--out", f"{tmp_path}/x")
