# SPDX-License-Identifier: Apache-2.0
"""A picture of a result file: how many times faster ours is than every kind of rival, by case.

python -m benchmarks.plot benchmarks/results/NAME.json docs/speed.svg     (.png works as well)
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

COLORS = {"eager": "#4c78a8", "smart": "#f58518", "compiled": "#54a24b", "peer": "#b279a2"}
LABELS = {
    "eager": "obvious PyTorch",
    "smart": "smart PyTorch",
    "compiled": "torch.compile",
    "peer": "best peer",
}
Ratios = dict[tuple[str, str], dict[str, float]]


def ratios(rows: Sequence[dict[str, Any]]) -> Ratios:
    """{(op and direction, case): {kind: its fastest provider's time over our fastest}}."""
    best: Ratios = {}
    for row in rows:
        if row["median_ms"] is not None:
            times = best.setdefault((f"{row['op']} {row['direction']}", row["case"]), {})
            times[row["kind"]] = min(row["median_ms"], times.get(row["kind"], float("inf")))
    return {
        case: {kind: times[kind] / times["ours"] for kind in COLORS if kind in times}
        for case, times in best.items()
        if "ours" in times
    }


def draw(content: dict[str, Any], target: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams.update({"svg.hashsalt": "pose_kernels", "svg.fonttype": "none"})
    from matplotlib import pyplot

    found = ratios(content["rows"])
    kinds = [kind for kind in COLORS if any(kind in case for case in found.values())]
    size = (9, 1.2 + (0.15 + 0.15 * len(kinds)) * len(found))
    figure, axes = pyplot.subplots(figsize=size, layout="constrained")
    height = 0.8 / max(1, len(kinds))
    for i, kind in enumerate(kinds):
        places = [j for j, case in enumerate(found.values()) if kind in case]
        values = [case[kind] for case in found.values() if kind in case]
        middle = [j + (i - (len(kinds) - 1) / 2) * height for j in places]
        # Bars begin at 1, equal speed: those to the left are cases where ours loses.
        lengths = [value - 1 for value in values]
        bars = axes.barh(middle, lengths, height, left=1, color=COLORS[kind], label=LABELS[kind])
        axes.bar_label(bars, [f"{v:.2g}x" if v < 10 else f"{v:.0f}x" for v in values], padding=3)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xscale("log")
    axes.margins(x=0.15, y=0.01)
    axes.set_yticks(range(len(found)), [f"{op}\n{case}" for op, case in found], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("times faster than the fastest of its kind (log scale; left of 1: slower)")
    machine = content.get("gpu") or f"{content['cpu']}, {content['threads']} threads"
    title = f"{machine}, torch {content['torch']}, allocator: {content['allocator']}"
    axes.set_title(title, fontsize=9)
    figure.legend(fontsize=8, loc="outside lower center", ncols=len(COLORS))
    vector = target.suffix.lower() == ".svg"
    about = {"Date": None, "Description": content.get("description")}
    figure.savefig(target, dpi=150, metadata=about if vector else None)
    pyplot.close(figure)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.plot", description=__doc__)
    parser.add_argument("source", type=Path, help="JSON that benchmarks.run wrote")
    parser.add_argument("target", type=Path, help="picture to write, .svg or .png")
    options = parser.parse_args(argv)
    try:
        draw(json.loads(options.source.read_text()), options.target)
    except ImportError:
        print("matplotlib is needed: pip install matplotlib", file=sys.stderr)
        return 2
    except (OSError, ValueError, KeyError) as error:
        print(f"{options.source}: {type(error).__name__}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
