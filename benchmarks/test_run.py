# SPDX-License-Identifier: Apache-2.0
"""The runner: what a run leaves behind, however it ends, and what it says on the way."""

import csv
import io
import json
import subprocess
import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import pytest
import torch

from benchmarks import agreement, memory, progress, registry, report, run, timing
from benchmarks.registry import Provider
from benchmarks.test_smoke import tiny

WORDS = "--op region_crop --rounds 1 --quick --no-memory --threads 1".split()


@pytest.fixture(autouse=True)
def as_before():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    agreement.forget()


@pytest.fixture
def two_cases(monkeypatch):
    """A run of two tiny cases, which takes next to no time."""
    module = registry.load("region_crop")
    monkeypatch.setattr(module, "CASES", [tiny(case) for case in module.CASES[:2]])
    ceiling = run.roofline.Ceiling({1: 10.0}, {1: 10.0})
    monkeypatch.setattr(run.roofline, "measure", lambda *a, **k: ceiling)
    monkeypatch.setattr(timing, "interleave", partial(timing.interleave, block_s=0.001))
    monkeypatch.setattr(timing, "QUIET", 2.0)
    return module


@pytest.fixture
def ends_in_the_second_case(two_cases, monkeypatch):
    def ending(error):
        measure, calls = run.measure, []

        def counted(*arguments):
            calls.append(arguments)
            if len(calls) == 2:
                raise error
            return measure(*arguments)

        monkeypatch.setattr(run, "measure", counted)

    return ending


@pytest.mark.parametrize("error, code", [(KeyboardInterrupt(), 130), (MemoryError("all"), None)])
def test_a_run_that_ends_early_keeps_its_cases(
    ends_in_the_second_case, tmp_path, capsys, error, code
):
    target = tmp_path / "result.json"
    target.write_text('{"of": "an earlier run"}')
    ends_in_the_second_case(error)
    if code is None:
        with pytest.raises(MemoryError):
            run.main([*WORDS, "--json", str(target)])
    else:
        assert run.main([*WORDS, "--json", str(target)]) == code
    assert json.loads(target.read_text()) == {"of": "an earlier run"}
    partial = tmp_path / "result.partial.json"
    content = json.loads(partial.read_text())
    assert content["complete"] is False
    assert len({row["case"] for row in content["rows"]}) == 1
    said = capsys.readouterr().err
    assert "1 of 2 cases are measured" in said and str(partial) in said


def test_a_complete_run_takes_the_name(two_cases, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(run, "results_stem", lambda facts, options: tmp_path / "new" / "machine")
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "machine.partial.json").write_text("of a run that was killed")
    assert run.main([*WORDS, "--out"]) == 0
    names = ["machine.csv", "machine.json", "machine.md"]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == names
    content = json.loads((tmp_path / "new" / "machine.json").read_text())
    assert content["complete"] is True and len({row["case"] for row in content["rows"]}) == 2
    with open(tmp_path / "new" / "machine.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(content["rows"])
    for line, row in zip(lines, content["rows"]):
        assert line == {name: "" if value is None else str(value) for name, value in row.items()}
    text = (tmp_path / "new" / "machine.md").read_text()
    printed, said = capsys.readouterr()
    assert text.strip() == printed.strip() and "Unfinished" not in text
    assert "[0/2 done; 0 s gone] region_crop forward" in said
    assert "[1/2 done; " in said and " left] region_crop" in said


def test_some_cases_take_a_name_of_their_own():
    facts = {"cpu": "Abacus(R) 9 @ 1 Hz", "threads": 2}

    def name(words: str) -> str:
        return run.results_stem(facts, run.parse(words.split())).name

    assert name("--allocator warm") == "Abacus-9-2t-warm"
    assert name("--quick --allocator warm --cache cold") == "Abacus-9-2t-warm-cold-main"
    some = name("--op uv_splat --op flow_warp --case C3 --compare v1/x")
    assert some == "Abacus-9-2t-default-uv_splat-flow_warp-C3-over-v1-x"


@pytest.mark.parametrize("target", ["/dev/null", "{}/file/result.json"])
def test_what_cannot_be_written_is_said_at_once(two_cases, tmp_path, capsys, target):
    (tmp_path / "file").write_text("")
    assert run.main([*WORDS, "--json", target.format(tmp_path)]) == 2
    assert "cannot write" in capsys.readouterr().err


def test_a_full_disk_ends_no_run(two_cases, monkeypatch, tmp_path, capsys):
    def full(*arguments):
        raise OSError("cannot write result.json: No space left on device")

    monkeypatch.setattr("benchmarks.record.write_files", full)
    assert run.main([*WORDS, "--json", str(tmp_path / "result.json")]) == 1
    printed, said = capsys.readouterr()
    assert said.count("No space left") == 2 and "## Summary" not in printed


def test_time_that_is_left():
    now = [0.0]
    found = progress.Progress([1.0, 3.0, 4.0], clock=lambda: now[0])
    assert found.times() == "0 s gone"
    now[0] = 30.0
    found.end()
    assert found.times() == "30 s gone, about 3 min 30 s left"  # 7 of 8 parts are to come


def test_bar_on_a_terminal(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("COLUMNS", "60")
    found = progress.Progress([1.0, 1.0])
    found.begin("one")
    found.end()
    found.begin("two " * 40)
    found.say("a line that stays")
    pieces = terminal.getvalue().split("\r\033[K")
    assert pieces[1] == "[....................] 0/2, 0 s gone: one"
    assert pieces[3].startswith("[##########..........] 1/2, ") and len(pieces[3]) == 59
    assert pieces[4] == "a line that stays\n" and pieces[5] == pieces[3]


def test_slow_calls_within_their_limit(monkeypatch):
    monkeypatch.setattr(timing, "SLOW_S", 0.01)
    calls = {"slow": 0, "slower": 0}

    def sleeps(name, seconds):
        def call():
            calls[name] += 1
            time.sleep(seconds)

        return timing.Contender(name, call, nullcontext)

    both = [sleeps("slow", 0.015), sleeps("slower", 0.06)]
    found = timing.interleave(both, rounds=3, block_s=0.0, patience=0.0, limit_s=0.1)
    assert found["slow"].samples == 3 and calls["slow"] == 1 + 3  # the first tells how slow it is
    assert calls["slower"] == found["slower"].samples == 1
    row = report.Row("o", "forward", "c", "p", "ours", 1, 1, 1.0, median_ms=60.0, samples=1)
    assert "| 60 | one call |" in report.case_table([row])
    assert "| 60 (one call) |" in report.summary([row])


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="nothing is known about others")
def test_what_works_for_us_is_not_foreign():
    seconds = [0.0]
    nobody, workers = timing.ForeignLoad(lambda: 0.0), timing.ForeignLoad(lambda: seconds[0])
    began = time.process_time()
    while time.process_time() - began < 0.1:
        pass
    seconds[0] += 100.0
    assert nobody.look() > 0 and workers.look() == 0


def test_memory_of_a_case(monkeypatch, capsys):
    module = registry.load("region_crop")
    providers = module.providers

    def fails(*tensors):
        raise RuntimeError("not here")

    def with_one_that_fails(case, device):
        return [*providers(case, device), Provider("broken", "peer", fails)]

    monkeypatch.setattr(module, "providers", with_one_that_fails)
    case = tiny(module.CASES[0])
    found = memory.of_case("region_crop", case)
    for provider in providers(case, "cpu"):
        peak, result = found[memory.key("region_crop", case, provider)]
        assert result == 2 * 5 * 3 * 12 * 12 * 4 and (peak is None or peak >= 0)
    assert not any("broken" in key for key in found) and "broken" in capsys.readouterr().err


def test_memory_of_the_cases_before_a_violent_end(monkeypatch):
    def killed(command, **options):
        lines = '{"peaks": {"a": [5, 4]}, "seconds": 1.5}\n{"peaks": {"b": [7'
        return subprocess.CompletedProcess(command, -9, stdout=lines)

    monkeypatch.setattr(memory.subprocess, "run", killed)
    said = []
    assert memory.elsewhere(WORDS, said.append) == ({"a": [5, 4]}, [1.5])
    assert said == ["peak memory: its process ended with -9 after 1 cases"]


@pytest.mark.parametrize("words", ["--limit 0", "--rounds 0", "--threads 0"])
def test_words_that_mean_nothing(words, capsys):
    with pytest.raises(SystemExit):
        run.parse(words.split())
    assert "must be" in capsys.readouterr().err
