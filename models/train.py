# SPDX-License-Identifier: Apache-2.0
"""Train a system.

python -m models.train dense_pose_transfer --data synthetic --preset tiny --steps 300 --out run
accelerate launch -m models.train ...      several GPUs or nodes: the same, with the same batches
torchrun --nproc-per-node 2 -m models.train ...
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

# While they wait, torch's threads would spin on cores that the data's workers need: a third of the
# time on a machine of two. It is read when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from . import systems
from .config import PAPER
from .system import System
from .training import command
from .training.folder import Folder, Run, features_of
from .training.loop import Stopped, Trainer
from .training.settings import TrainSettings

PROG = "python -m models.train"


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0].startswith("-"):
        _overview().parse_args(argv)
        _overview().error("name a system first")
    try:
        system = systems.load(argv[0])
        args = _parser(argv[0], system).parse_args(argv[1:])
        trainer = _trainer(argv[0], system, args)
    except (ValueError, OSError) as error:
        return command.fail(PROG, error, 2)
    try:
        summary = trainer.train()
        trainer.accelerator.end_training()
    except Stopped as error:
        return command.fail(PROG, error, error.code)
    except OSError as error:
        return command.fail(PROG, error, 1)
    except KeyboardInterrupt:
        return 130
    if trainer.main:
        print(summary.line())
        for words in features_of(trainer.system).values():
            print(f"loss features: {words}")
    return 0


def _overview() -> command.Parser:
    lines = [f"  {name:24} {summary}" for name, summary in systems.summaries().items()]
    parser = command.Parser(
        prog=PROG,
        usage=f"{PROG} SYSTEM [--preset NAME] [--data NAME] [--steps N] [--out DIR] ...",
        description="Train a system. Its settings: " + PROG + " SYSTEM --help",
        epilog="systems, besides any MODULE:CLASS of your own:\n" + "\n".join(lines),
    )
    parser.add_argument("system", nargs="?", help=argparse.SUPPRESS)
    return parser


def _parser(name: str, system: type[System]) -> command.Parser:
    prog = f"{PROG} {name}"
    parser = command.Parser(
        prog=prog,
        usage=f"{prog} [--preset NAME] [--resume | --overwrite] [settings]",
        description=f"Train {systems.summary(name)}.",
    )
    names = command.presets(system)
    parser.add_argument(
        "--preset", choices=names, help=f"the values that all settings begin with (default {PAPER})"
    )
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--resume",
        action="store_true",
        help="go on with the run in --out, with its settings, after the last step that was saved",
    )
    group.add_argument("--overwrite", action="store_true", help="replace the run that is in --out")
    command.add_settings(parser, system)
    return parser


def _trainer(name: str, system: type[System], args: argparse.Namespace) -> Trainer:
    if args.resume:
        run = _stored(name, system, args)
    else:
        preset = args.preset or PAPER
        run = Run(name, preset, *command.settings_from(args, system, preset))
    sets = [command.open_split(run.settings, s) for s in ("train", "validation")]
    return Trainer(run, system, *sets, resume=args.resume, overwrite=args.overwrite)


def _stored(name: str, system: type[System], args: argparse.Namespace) -> Run:
    """What run.json says, with the flags that were given now; `continued` judges them."""
    given: dict[str, Any] = {key: value for key, value in vars(args).items() if value is not None}
    stored = Folder(given.get("out", TrainSettings().out)).read()
    if stored["system"] != name:
        raise ValueError(f"--resume: the run is of {stored['system']}, not of {name}")
    if given.get("preset", stored["preset"]) != stored["preset"]:
        raise ValueError(f"--resume: the run has --preset {stored['preset']}")
    filled = {**stored["config"], **stored["settings"]}
    for key, value in filled.items():
        if key not in given:
            setattr(args, key, "none" if value is None else value)
    config, settings = command.settings_from(args, system, PAPER)
    return Run(name, stored["preset"], config, settings)


if __name__ == "__main__":
    sys.exit(main())
