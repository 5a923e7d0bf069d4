# SPDX-License-Identifier: Apache-2.0
"""The trainer on a small system: settings, stages, order of the data, turns, averages, files."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from PIL import Image
from safetensors.torch import load_file
from training_worker import TinyConfig, TinyGan, TinyPairs

from models.system import DISCRIMINATOR, GENERATOR, Stage
from models.train import main
from models.training import checkpoint
from models.training.ema import Average
from models.training.sampling import Order, Share, loader
from models.training.schedule import plan
from models.training.turns import NotFinite, Turns

TINY = "tiny_gan --preset tiny".split()


def train(out: Path, *flags: str) -> int:
    return main([*TINY, "--out", str(out), *flags])


def rows(out: Path) -> list[list[str]]:
    with (out / "losses.csv").open() as file:
        return list(csv.reader(file))


# The plan and the order of the data


def test_steps_are_divided_in_proportion() -> None:
    stages = [Stage("a", 100), Stage("b", 300), Stage("c", 200)]

    def spans(*arguments: object) -> list[tuple[str, int, int]]:
        return [(s.stage.name, s.start, s.stop) for s in plan(stages, *arguments)]  # type: ignore[arg-type]

    assert spans() == [("a", 0, 100), ("b", 100, 400), ("c", 400, 600)]
    assert spans(12) == [("a", 0, 3), ("b", 3, 8), ("c", 8, 12)]
    assert spans(3) == [("a", 0, 1), ("b", 1, 2), ("c", 2, 3)]
    assert spans(7, "b") == [("b", 0, 7)]
    for steps in range(3, 50):
        assert spans(steps)[-1][2] == steps
    with pytest.raises(ValueError, match="--steps must be at least 1 for each of a, b, c"):
        plan(stages, 2)
    with pytest.raises(ValueError, match="--stage must be one of a, b, c, got 'd'"):
        plan(stages, None, "d")


def test_an_epoch_has_every_pair_once_and_processes_share_it() -> None:
    order = Order(13, 4, seed=5)
    epochs = [[key for step in range(3 * e, 3 * e + 3) for key in order.at(step)] for e in (0, 1)]
    for number, keys in enumerate(epochs):
        assert {epoch for epoch, _ in keys} == {number}
        indexes = [index for _, index in keys]
        assert len(set(indexes)) == 12 and set(indexes) <= set(range(13))
    assert [i for _, i in epochs[0]] != [i for _, i in epochs[1]]
    assert Order(13, 4, seed=5).at(4) == epochs[1][4:8]  # without the ones before
    shares = [list(Share(order, 2, 5, process, 2, 2)) for process in (0, 1)]
    for step in range(3):
        parts = [part for share in shares for part in share[2 * step : 2 * step + 2]]
        assert [key for part in parts for key in part] == order.at(2 + step)
    assert [i for _, i in Order(2, 4, seed=0).at(0)] in ([0, 1, 0, 1], [1, 0, 1, 0])
    with pytest.raises(ValueError, match="--batch must be a multiple of 3 processes x"):
        Share(order, 0, 1, 0, 3, 1)


def test_workers_load_the_same_and_draw_nothing_from_the_trainer() -> None:
    order = Order(5, 2, seed=1)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    with_workers, without = (
        [
            batch["source_image"]
            for batch in loader(TinyPairs("train", (4, 4)), Share(order, 1, 5, 0, 1, 1), n, False)
        ]
        for n in (2, 0)
    )
    assert torch.equal(torch.stack(with_workers), torch.stack(without))
    assert not torch.equal(without[0], without[2])  # of another epoch
    assert torch.equal(torch.get_rng_state(), state)


# Turns


@pytest.fixture
def accelerator() -> Accelerator:
    return Accelerator(cpu=True)


class Plain(TinyGan):
    """Gradient descent, whose steps show the gradients."""

    def optimizer(self, player: str, parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=1.0)


def plain(accelerator: Accelerator, clip: float | None = None) -> tuple[Plain, Turns]:
    torch.manual_seed(0)
    system = Plain(TinyConfig(width=4, drop=0.0))
    return system, Turns(system, system, system.stages[1], accelerator, clip)


def batch_of(*indexes: int) -> dict[str, torch.Tensor]:
    pairs = TinyPairs("train", (8, 8))
    return torch.utils.data.default_collate([pairs[index] for index in indexes])


def copies(system: Plain) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in system.named_parameters()}


def test_a_turn_moves_its_player_by_its_gradient_and_nobody_else(accelerator: Accelerator) -> None:
    system, turns = plain(accelerator)
    batch = batch_of(0, 1)
    seen: list[tuple[str, set[str]]] = []
    gradients = system.register_forward_pre_hook(
        lambda module, inputs: seen.append(
            (inputs[2], {n for n, p in system.named_parameters() if p.requires_grad})
        )
    )
    before = copies(system)
    # The same by hand: first the judge on what is generated, then the rest with the new judge.
    torch.manual_seed(0)
    twin = Plain(TinyConfig(width=4, drop=0.0))
    for player in (DISCRIMINATOR, GENERATOR):
        loss = sum(twin.losses(batch, "joint", player).values())
        ours = twin.players("joint")[player]
        slopes = torch.autograd.grad(loss, ours, allow_unused=True)
        with torch.no_grad():
            for parameter, slope in zip(ours, slopes):
                if slope is not None:
                    parameter -= slope
    turns.step([batch])
    gradients.remove()
    judge = {"judge.weight", "judge.bias"}
    assert seen == [
        (DISCRIMINATOR, judge),
        (GENERATOR, {n for n in before if n not in judge and not n.startswith("features")}),
    ]
    for (name, found), expected in zip(system.named_parameters(), twin.parameters()):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7, msg=name)
        still = name == "unused" or name.startswith("features")
        assert torch.equal(found, before[name]) == still, name


def test_parts_of_a_batch_give_the_gradient_of_the_whole(accelerator: Accelerator) -> None:
    whole, turns = plain(accelerator)
    terms = turns.step([batch_of(0, 1, 2, 3)])
    parted, turns = plain(accelerator)
    of_parts = turns.step([batch_of(0, 1), batch_of(2, 3)])
    for player, values in terms.items():
        assert of_parts[player] == pytest.approx(values, rel=1e-5)
    for found, expected in zip(parted.parameters(), whole.parameters()):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_clipping_bounds_the_gradient_of_each_player(accelerator: Accelerator) -> None:
    system, turns = plain(accelerator, clip=0.01)
    before = copies(system)
    terms = turns.step([batch_of(0, 1)])
    for player, parameters in system.players("joint").items():
        names = {id(p): n for n, p in system.named_parameters()}
        moved = torch.cat([(p - before[names[id(p)]]).reshape(-1) for p in parameters]).norm()
        assert terms[player]["gradient_norm"] > 0.02
        assert moved.item() == pytest.approx(0.01, rel=1e-3)


def test_a_gradient_that_is_not_finite_moves_nothing(accelerator: Accelerator) -> None:
    class Edge(Plain):
        def losses(self, batch, stage, player):  # type: ignore[no-untyped-def]
            terms = super().losses(batch, stage, player)
            if player == GENERATOR:  # 0, whose derivative is infinite
                terms["edge"] = (self.unused - 1).abs().sum().sqrt()
            return terms

    torch.manual_seed(0)
    system = Edge(TinyConfig(width=4, drop=0.0))
    turns = Turns(system, system, Stage("joint", 1), accelerator, None)
    before = copies(system)
    with pytest.raises(NotFinite, match="generator: gradient_norm is nan"):
        turns.step([batch_of(0, 1)])
    assert all(torch.equal(p, before[name]) for name, p in system.named_parameters())


def test_average_by_hand() -> None:
    torch.manual_seed(0)
    system = TinyGan(TinyConfig(width=4))
    average = Average(system, 0.5)
    assert not any(name.startswith(("judge", "features")) for name in average.weights)
    live = system.scale
    expected = 1.0
    for n, value in enumerate((2.0, -1.0, 4.0, 0.5, 3.0, 8.0, 1.0, 2.0, 5.0, 0.0)):
        with torch.no_grad():
            live.fill_(value)
        average.update(n)
        decay = min(0.5, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * value
        assert average.weights["scale"].flatten().tolist() == pytest.approx([expected] * 3)
    with average.applied():
        assert live.flatten().tolist() == pytest.approx([expected] * 3)
    assert live.flatten().tolist() == [0.0] * 3


# The command


def test_a_run_leaves_what_it_should(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(tmp_path / "a", "--steps", "9", "--log-every", "2") == 0
    out = tmp_path / "a"
    said = capsys.readouterr().out
    assert said.startswith("step 9: ") and "\nloss features: four channels, seed of the run" in said
    table = rows(out)
    assert table[0] == ["step", "stage", "player", "term", "value"]
    assert list(dict.fromkeys((row[0], row[1]) for row in table[1:])) == [
        *(("2", "warm"), ("3", "warm"), ("4", "joint"), ("6", "joint"), ("8", "joint")),
        ("9", "joint"),  # the last of a stage, always
    ]
    assert [p.name for p in sorted((out / "sheets").iterdir())] == [
        *("step-00000003.png", "step-00000008.png", "step-00000009.png")
    ]
    sheet = Image.open(out / "sheets" / "step-00000009.png")
    assert sheet.width > 3 * 96 and sheet.height > 6 * 96  # three columns of six pairs
    assert list((out / "tensorboard").glob("events*"))
    kept = sorted(path.name for path in (out / "checkpoints").iterdir())
    assert kept == ["latest", "step-00000004", "step-00000008", "step-00000009"]
    folder = out / "checkpoints" / "step-00000009"
    state = json.loads((folder / "state.json").read_text())
    assert (state["step"], state["stage"]) == (9, "joint")
    assert state["config"]["width"] == 4 and state["settings"]["batch"] == 4
    assert state["versions"]["torch"] == torch.__version__
    weights = load_file(folder / "model.safetensors")
    assert "judge.weight" in weights and "frozen_mean" in weights
    assert not any(name.startswith("features") for name in weights)  # nobody trains them
    assert {path.suffix for path in folder.iterdir()} == {".json", ".safetensors"}

    # A stage of its own, from those weights, and in bfloat16.
    AcceleratorState._reset_state(True)
    flags = ("--stage", "joint", "--steps", "1", "--init", str(out), "--precision", "bf16")
    assert train(tmp_path / "b", *flags) == 0
    AcceleratorState._reset_state(True)
    first = float(next(row[4] for row in rows(tmp_path / "b") if row[3] == "l1"))
    last = float([row[4] for row in rows(out) if row[3] == "l1"][-1])
    start = float(table[1][4])
    assert abs(first - last) < 0.3 * (start - last)


def test_nan_stops_the_run_and_says_where(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    order = Order(12, 4, seed=0)
    poisoned = str(order.at(2)[0][1])  # in the third step of each epoch of three
    out = tmp_path / "poisoned"
    flags = ("--poison", poisoned, "--save-every", "1", "--sheet-every", "0")
    assert train(out, *flags) == 1
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert "step 3, stage warm, generator: l1 is nan" in message
    report = json.loads((out / "non-finite-step-00000003.json").read_text())
    assert report["indexes"] == [index for _, index in order.at(2)]
    assert report["terms"]["l1"] == "nan" and report["terms"]["features"] != "nan"
    good = out / "checkpoints" / "step-00000002"
    assert f"the last good checkpoint is {good}; " in message
    assert checkpoint.names_in(out / "checkpoints") == ["step-00000001", "step-00000002"]
    weights = checkpoint.read(good).files["model"].values()
    assert all(torch.isfinite(tensor).all() for tensor in weights)


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_file_that_lacks_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], workers: str
) -> None:
    gone = Order(12, 4, seed=0).at(1)[3][1]  # of the second step
    flags = ("--data-options", f"gone={gone}", "--workers", workers, "--save-every", "1")
    assert train(tmp_path, *flags) == 1
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert "step 2: the data set failed: " in message
    assert message.endswith(f"picture-{gone}.png: no such file")
    assert checkpoint.names_in(tmp_path / "checkpoints") == ["step-00000001"]


def test_wrong_values_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(tmp_path / "there", "--steps", "2", "--sheet-every", "0") == 0
    capsys.readouterr()
    cases = {
        "nothing": "there is no system 'nothing'; there are: dense_pose_transfer",
        "nowhere:Mine": "system nowhere:Mine: No module named 'nowhere'",
        "training_worker:TinyPairs": "is no subclass of models.system.System",
        "tiny_gan --batch many": "--batch: must be int, got 'many'",
        "tiny_gan --batch 0": "--batch must be at least 1, got 0",
        "tiny_gan --precision fp8": "--precision: invalid choice: 'fp8'",
        "tiny_gan --device cpu --precision fp16": "--precision fp16 needs a GPU",
        "tiny_gan --preset huge": "--preset: invalid choice: 'huge'",
        "tiny_gan --bach 3": "unrecognized arguments: --bach 3",
        "tiny_gan --stage third": "--stage must be one of warm, joint, got 'third'",
        "tiny_gan --batch 4 --accumulate 3": "--batch must be a multiple of 1 processes x",
        "tiny_gan --data other": "data must be one of deepfashion, ",
        "tiny_gan --data-root gone": "gone/pairs.csv is not there: make it first",
        f"tiny_gan --out {tmp_path}/there --resume --data-seed 1": "--data-seed was 0 and cannot",
        "tiny_gan --data-options length": "--data-options: a data option must be KEY=VALUE",
        "tiny_gan --data-options length=0": "tiny pairs: the train split has no pairs",
        "tiny_gan --init gone": "gone is neither a checkpoint nor a run that has one",
        "demanding": "the data has no flow, source_joints18 (2D joints: the annotation CSV",
        f"tiny_gan --out {tmp_path}/there": "holds a run already, its newest checkpoint is step-",
        f"tiny_gan --out {tmp_path}/there --resume --overwrite": "not allowed with argument",
    }
    for number, (line, words) in enumerate(cases.items()):
        out = [] if "--out" in line else ["--out", str(tmp_path / str(number))]
        name, *flags = line.split()
        try:
            code = main([name, *out, *flags])
        except SystemExit as error:
            code = int(error.code or 0)
        said = capsys.readouterr().err
        assert code == 2 and words in said and said.count("\n") == 1, (line, said)
        assert not (tmp_path / str(number)).exists(), line  # before anything is written
    assert train(tmp_path / "there", "--overwrite", "--steps", "3", "--sheet-every", "0") == 0
    assert [row[0] for row in rows(tmp_path / "there") if row[3] == "l1"] == ["1", "2", "3"]


def test_a_launcher_that_contradicts_the_settings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert train(tmp_path) == 2
    assert "accelerate was told to use bf16, but --precision is no" in capsys.readouterr().err


def test_help_shows_every_setting_with_its_presets(capsys: pytest.CaptureFixture[str]) -> None:
    def shown(*arguments: str) -> str:
        with pytest.raises(SystemExit) as stop:
            main(list(arguments))
        assert stop.value.code == 0
        return " ".join(capsys.readouterr().out.split())

    overview = shown("--help")
    assert "dense_pose_transfer" in overview and "two convolutions and a judge" in overview
    text = shown("tiny_gan", "--help")
    from models.training.settings import TrainSettings

    for field in (*dataclasses.fields(TrainSettings), *dataclasses.fields(TinyConfig)):
        assert f"--{field.name.replace('_', '-')} " in text, field.name
    for title in ("data:", "training:", "output:", "system tiny_gan:"):
        assert title in text
    assert "channels (default 8, tiny 4)" in text
    assert "decay of the averaged weights; 0: none are kept (default 0.999, tiny 0.9)" in text
    assert "over all processes together (default 4)" in text  # the system's own default
