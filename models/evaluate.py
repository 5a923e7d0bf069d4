# SPDX-License-Identifier: Apache-2.0
"""Measure a trained system on a split, beside what costs nothing.

python -m models.evaluate run
python -m models.evaluate run --split validation --pairs 200 --learned LPIPS FID

Two baselines go through the same metrics: a copy of the source picture, and the mean picture of the
training split.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as in train.py

from .training import command
from .training.comparison import Comparison, mean_picture, measure
from .training.sampling import chosen, spread
from .training.trained import Trained, data_line, device_of, load_trained

PROG = "python -m models.evaluate"


def main(argv: list[str] | None = None) -> int:
    try:
        args = _parser().parse_args(argv)
        trained = load_trained(args.run, average=not args.no_ema, device=device_of(args.device))
        comparison = _compare(trained, args)
        print(comparison.table())
        out = args.out or args.run / f"evaluation-{args.split}"
        for path in comparison.write(out):
            print(f"written: {path}")
    except (ValueError, OSError) as error:
        return command.fail(PROG, error, 2)
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> command.Parser:
    parser = command.Parser(prog=PROG, description="Measure a trained system on a split.")
    parser.add_argument("run", type=Path, help="folder of a run, or one of its checkpoints")
    command.add_run_arguments(parser)
    parser.add_argument("--pairs", type=int, help="so many pairs, spread over the split (all)")
    parser.add_argument("--batch", type=int, default=8, help="pairs at once (%(default)s)")
    parser.add_argument(
        "--mean-pairs",
        type=int,
        default=500,
        help="training pairs whose targets make the mean picture (%(default)s)",
    )
    parser.add_argument(
        "--learned",
        nargs="*",
        choices=("LPIPS", "FID", "IS"),
        default=(),
        help="also these, with the weights that torchmetrics has or downloads (none)",
    )
    parser.add_argument(
        "--out", type=Path, help="writes OUT.json and OUT.csv (RUN/evaluation-SPLIT)"
    )
    return parser


def _compare(trained: Trained, args: argparse.Namespace) -> Comparison:
    settings = command.data_settings(trained.settings, args)
    for name in ("batch", "mean_pairs"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1")
    pairs = command.open_split(settings, args.split)
    training = command.open_split(settings, "train")
    count = len(pairs) if args.pairs is None else args.pairs
    if not 1 <= count <= len(pairs):
        raise ValueError(f"--pairs must be 1..{len(pairs)}, which the {args.split} split has")
    workers = settings.workers
    from_training = spread(training, args.mean_pairs)
    mean = mean_picture(chosen(training, from_training, args.batch, workers))
    return measure(
        trained,
        chosen(pairs, spread(pairs, count), args.batch, workers),
        mean,
        data=data_line(settings, args.split, count),
        mean_of=len(from_training),
        networks=tuple(args.learned),
    )


if __name__ == "__main__":
    sys.exit(main())
