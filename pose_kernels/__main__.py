# SPDX-License-Identifier: Apache-2.0
"""``python -m pose_kernels [transfer | repose-volume | mesh-flow | demo | doctor]``.

Alone, the doctor.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType
from typing import NoReturn

_COMMANDS = {
    "transfer": "lift the texture of a photo onto the body atlas and paint it into another pose",
    "repose-volume": "move a volume, part by part, from one 3D pose of a clip to another",
    "mesh-flow": "appearance flow and visibility between two views of a mesh, with pictures",
    "demo": "both on a built-in person: no downloads, quality and speed in a table",
    "doctor": "what is installed, which kernels run where, and why (the default)",
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line instead of the usage in front of it."""
        self.exit(2, f"error: {message}; see {self.prog} --help\n")


def _module(command: str) -> ModuleType:
    return import_module(f"pose_kernels.commands.{command.replace('-', '_')}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; 0 on success, 2 after a user's error (one line on stderr)."""
    argv = sys.argv[1:] if argv is None else list(argv)
    parser = _Parser(prog="python -m pose_kernels", description=__doc__)
    commands = parser.add_subparsers(dest="command", metavar="command")
    for name, purpose in _COMMANDS.items():
        command = commands.add_parser(name, help=purpose, description=purpose)
        if name in argv[:1]:  # import only what will run
            _module(name).add_arguments(command)
    args = parser.parse_args(argv)
    try:
        return _module(args.command or "doctor").run(args)
    except (ValueError, OSError) as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
