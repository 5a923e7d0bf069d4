# SPDX-License-Identifier: Apache-2.0
"""Runs every op forward and backward once on small odd shapes, and copies the results to the host.

    compute-sanitizer --tool memcheck --error-exitcode 99 python tools/sanitize.py

The tools of the CUDA toolkit slow a program down a hundredfold and trip over what is not ours: so
no pytest, nothing compared, and the name of each call before it, to tell what an error belongs to.
``--device cpu`` shows that the calls themselves are right.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1])]

import torch  # noqa: E402
from op_calls import CALLS, chosen  # noqa: E402

import pose_kernels as pk  # noqa: E402


def main(argv: Sequence[str] | None = None) -> int:
    ops = list(dict.fromkeys(call.op for call in CALLS))
    parser = argparse.ArgumentParser("tools/sanitize.py", description=__doc__)
    parser.add_argument("--device", default="cuda", help="cuda unless told")
    parser.add_argument("--backend", choices=pk.backends.BACKENDS, help="the fastest unless told")
    parser.add_argument("--op", action="append", choices=ops, help="repeatable; default: all")
    options = parser.parse_args(argv)
    kind = torch.device(options.device).type
    if kind == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no GPU here")
    backend = options.backend or {"cpu": "cpp", "cuda": "cuda"}.get(kind, "reference")
    try:
        with pk.use_backend(backend):
            run(backend, options.device, options.op)
    except ValueError as error:
        if backend not in pk.backends.unavailable:
            raise
        parser.error(str(error))
    return 0


def run(backend: str, device: str, ops: list[str] | None) -> None:
    calls = chosen(backend, ops)
    for call in calls:
        print(call.name, flush=True)
        for result in call.run(call.inputs(device)):
            result.cpu()  # unwritten memory is an error of initcheck here, at the latest
    print(f"{len(calls)} calls on {device}, {backend}: done", flush=True)


if __name__ == "__main__":
    sys.exit(main())
