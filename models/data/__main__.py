# SPDX-License-Identifier: Apache-2.0
"""python -m models.data --check-data NAME --data-root DIR [--data-options KEY=VALUE ...]

Goes through the files of a data set, prints counts and the first ten of every kind of problem.
Exit status 0 when nothing is wrong, 1 otherwise.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from . import SPLITS, names, options_of, read_options
from .check import check


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m models.data",
        description="Go through the files of a data set and count. Layouts: docs/data.md.",
    )
    parser.add_argument(
        "--check-data",
        required=True,
        metavar="NAME",
        help=f"{', '.join(name for name in names() if name != 'synthetic')}, or MODULE:FUNCTION",
    )
    parser.add_argument("--data-root", required=True, metavar="DIR", help="its folder")
    parser.add_argument(
        "--data-options",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="options of the data set; "
        + "; ".join(f"{n}: {', '.join(options_of(n) or ())}" for n in ("deepfashion", "folder")),
    )
    parser.add_argument("--splits", nargs="+", choices=SPLITS, default=SPLITS, help="default all")
    parser.add_argument(
        "--thorough", action="store_true", help="decode every file, not only its header"
    )
    args = parser.parse_args(arguments)
    try:
        report = check(
            args.check_data,
            args.data_root,
            splits=args.splits,
            thorough=args.thorough,
            progress=sys.stderr.isatty(),
            **read_options(args.data_options),
        )
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(report)
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main())
