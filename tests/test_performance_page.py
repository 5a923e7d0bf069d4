# SPDX-License-Identifier: Apache-2.0
"""docs/performance.md and the README's table say what the committed results say."""

from __future__ import annotations

import copy
import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
if not (ROOT / "benchmarks" / "page.py").exists():
    pytest.skip("the benchmarks are in a checkout, not in an install", allow_module_level=True)
sys.path.append(str(ROOT))  # at the end: an installed pose_kernels stays the one that is tested

from benchmarks import collected, goals, page, verdicts  # noqa: E402
from benchmarks.goals import Goal  # noqa: E402

FACTS = {
    "date": "2026-01-01T00:00:00+00:00",
    "command": "python -m benchmarks.run",
    "commit": "abc1234",
    "torch": "2.13.0",
    "python": "3.11.0",
    "system": "Linux",
    "cpu": "Some CPU",
    "threads": 2,
    "allocator": "warm",
    "cache": "warm",
    "ceiling": [{"megabytes": 2.0, "copy_gb_s": 90.0, "fill_gb_s": 50.0}],
}


def rows(op: str = "uv_splat", case: str = "B8, contiguous", **ms: float) -> list[dict]:
    common = {"op": op, "direction": "forward", "case": case, "flops": 1, "ceiling_gb_s": 100.0}
    return [
        {**common, "provider": f"the {kind}", "kind": kind, "bytes_moved": 2_000_000}
        | {"median_ms": value, "low_ms": value, "high_ms": value, "of_a_later_version": 1}
        for kind, value in ms.items()
    ]


@pytest.fixture
def folder(tmp_path):
    def put(name: str, rows: list[dict], **facts) -> None:
        (tmp_path / f"{name}.json").write_text(json.dumps({**FACTS, **facts, "rows": rows}))

    put.path = tmp_path
    return put


def only(folder) -> collected.Section:
    (section,) = collected.sections(collected.load(folder.path))
    return section


def test_committed_pages_are_what_the_results_give():
    assert page.stale(ROOT, collected.load()) == [], "python -m benchmarks.page writes them"


def test_newest_finished_run_counts(folder):
    splat = "B8 C3 256x256 S256, fp32, contiguous"
    folder("a", rows(case=splat, ours=2.0, eager=30.0) + rows("push_pull", ours=5.0, eager=50.0))
    folder("b", rows(case=splat, ours=1.0, eager=30.0), date="2026-01-02T00:00:00+00:00")
    folder(
        "c",
        rows(case=splat, ours=0.1, eager=30.0),
        date="2026-01-03T00:00:00+00:00",
        complete=False,
    )
    section = only(folder)
    assert [run.name for run in section.runs] == ["b", "a"]
    found = section.find("uv_splat", "forward", "contiguous")
    assert found[0].name == "b" and collected.ratio(found[1], "eager") == 30.0
    text = page.place_part(section)
    assert "| 30x |" in text and "| 10x |" in text and "| 15x |" not in text
    assert "[every row](../benchmarks/results/a.json)" in text and "Some CPU" in text
    runs = collected.load(folder.path)
    assert "`c.json` is of a run that was not finished" in page.page(runs)
    assert "| `uv_splat` | 1 ms | 30× | - | - |" in page.front(runs)


@pytest.mark.parametrize(
    "goal, outcome, says",
    [
        (Goal("uv_splat", "forward", "B8", eager=15, smart=2), "met", "met"),
        (Goal("uv_splat", "forward", "B8", eager=15.1), "missed", verdicts.NO_REASON),
        (
            Goal("uv_splat", "forward", "B8", smart=3, reason="physics"),
            "missed",
            "(over smart): physics",
        ),
        (Goal("uv_splat", "forward", "B8", eager=15, ms=1), "missed in ms", "faster machine"),
        (Goal("uv_splat", "forward", "B8", ms=1), "missed", verdicts.NO_REASON),
        (Goal("uv_splat", "forward", "B8", eager=15, peer=2), "met where measured", "over peer"),
        (Goal("uv_splat", "forward", "B8", share=0.01, fill=0.02), "met", "met"),
        (Goal("uv_splat", "forward", "B8", share=0.011), "missed", "of the ceiling"),
        (Goal("uv_splat", "forward", "B8", fill=0.021), "missed", "of a fill"),
        (Goal("uv_splat", "forward", "B9", eager=1), "no result", "**no result**"),
        (Goal("uv_splat", "forward", "B8", 1, allocator="default"), "no result", "**no result**"),
    ],
)
def test_verdicts(folder, goal, outcome, says):
    # 15 times the eager, 2 times the smart; 1 GB/s of 100, where a fill gives 50
    folder("a", rows(ours=2.0, eager=30.0, smart=4.0))
    found = verdicts.judge(goal, [only(folder)])
    assert found.outcome == outcome and says in verdicts.words(found)
    assert f"1 {outcome if outcome != 'no result' else 'without a result'}".replace(
        "met where measured", "met"
    ) in verdicts.count([found])


def test_shortest_title_is_the_plain_case(folder):
    folder("a", rows(case="B8, random uv", ours=9.0) + rows(case="B8", ours=2.0))
    assert only(folder).find("uv_splat", "forward", "B8")[1][0].median_ms == 2.0


def test_losses_are_listed(folder):
    folder("a", rows(ours=2.0, eager=30.0, peer=1.0) + rows("heatmap", ours=2.0, eager=2.1))
    text = page.losses_part([only(folder)])
    assert "| 2 | the peer (peer) | 1 | 0.5x |" in text and "heatmap" not in text
    folder("a", rows(ours=2.0, eager=30.0))
    assert page.losses_part([only(folder)]).startswith("Nowhere")


def test_every_goal_is_on_the_page(folder):
    folder("a", rows(ours=2.0, eager=30.0))
    text = page.page(collected.load(folder.path))
    for goal in [*goals.CPU, *goals.halves(), *goals.GPU]:
        assert f"| {goal.op} {goal.direction} |" in text
    wanted = len(goals.CPU) + len(list(goals.halves())) + len(goals.GPU)
    assert text.count("**no result**") == wanted
    assert "there is no GPU result file yet" in text


def test_gpu_results_are_held_against_the_gpu_goals(folder):
    case = "B8 C3 256x256 S256, fp32, contiguous"
    two = [row | {"provider": f"ours, {x}"} for x in ("cuda", "triton") for row in rows(ours=1.0)]
    two[1]["median_ms"] = 1.6
    more = rows("push_pull", case, ours=0.1, eager=2.0)
    gpu = {"gpu": "NVIDIA H200", "cuda": "13.0", "allocator": "torch caching", "cache": "cold"}
    folder("h", two + more, **gpu)
    text = verdicts.goal_tables([only(folder)])
    assert "### NVIDIA H200" in text and "no GPU result file" not in text
    assert f"| push_pull forward | {case} | 15x eager, 0.115 ms | 20x eager, 0.1 ms | met |" in text
    assert "1 cases measured, 1 above it: uv_splat forward B8, contiguous 1.6x" in text
    assert "CUDA 13.0" in page.place_part(only(folder))
    assert "| `uv_splat` |" not in page.front(collected.load(folder.path))


def test_no_page_has_a_speed_of_its_own():
    table = re.compile(f"{page.BEGIN}.*{page.END}", re.DOTALL)
    speed = re.compile(
        r"\b\d[\d.,]* ?(ms|µs|GB/s)\b|\d[\d.]* ?[x×] (as fast|faster|over)|times (as fast|faster)"
    )
    pages = [ROOT / page.README, ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    for path in pages:
        if path.relative_to(ROOT) != page.PAGE:
            found = speed.search(table.sub("", path.read_text()))
            assert found is None, f"{path.name}: {found[0]}: only results may say so"
    assert speed.search("takes 3.5 ms") and speed.search("is 12x faster")


def test_what_does_not_follow_from_the_results_is_stale(folder, tmp_path):
    runs = collected.load()
    for path in (page.PAGE, page.README, page.IMAGES / "x"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / page.README).write_text((ROOT / page.README).read_text())
    for path, text in page.texts(tmp_path, runs).items():
        (tmp_path / path).write_text(text)
    for path, drawn in page.pictures(runs).items():
        (tmp_path / path).write_text(drawn["description"])
    assert page.stale(tmp_path, runs) == []

    faster = copy.deepcopy(runs)
    for run in faster:
        for key, group in run.groups.items():
            if key[:2] == ("uv_splat", "forward"):
                for row in group:
                    if row.kind == "ours":
                        row.median_ms /= 2
    found = " ".join(page.stale(tmp_path, faster))
    assert "performance.md" in found and "README.md" in found and ".svg is not drawn" in found
    (tmp_path / page.IMAGES / "speed-old.svg").write_text("")
    assert page.stale(tmp_path, runs) == ["docs/images/speed-old.svg is of no results"]
