# SPDX-License-Identifier: Apache-2.0
"""Peak memory of one forward and one backward pass, measured in a process of its own.

On the CPU: resident memory before, and its high-water mark (reset just before) after; torch's
counters on a GPU. Run as a script by :func:`of`.
"""

from __future__ import annotations

import importlib
import inspect
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

import pose_kernels as pk

CANNOT = 77  # exit status: the high-water mark cannot be reset here
MB = 2**20


def of(
    contract: type, case: Any, backend: str, device: str
) -> dict[str, tuple[float, float, float]] | None:
    """MB per phase: beyond what was there before; of the results; what ``room`` allows.

    case: one of ``contract.realistic``.
    """
    file = Path(inspect.getfile(contract))
    # A huge page would count as resident as soon as one byte of it is touched.
    paths = [str(Path(pk.__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "POSE_KERNELS_HUGE_PAGES": "0"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    environment |= {"MALLOC_MMAP_THRESHOLD_": "65536"}  # what is freed goes back at once
    arguments = [str(file.parent), file.stem, contract.__name__, case.id, backend, device]
    command = [sys.executable, __file__, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode == CANNOT:
        return None
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    lines = [line.split() for line in done.stdout.splitlines() if line.startswith("PEAK")]
    return {phase: (float(a), float(b), float(c)) for _, phase, a, b, c in lines}


def main(folder: str, module: str, name: str, case: str, backend: str, device: str) -> None:
    sys.path.insert(0, folder)
    tests = importlib.import_module(module)
    contract, move = getattr(tests, name)(), importlib.import_module("cases").move

    def resident(key: str) -> float:
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) for line in file if line.startswith(key)) / 1024

    def reset() -> float:
        if device == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            return torch.cuda.memory_allocated() / MB
        try:
            with open("/proc/self/clear_refs", "w") as file:
                file.write("5")
        except OSError:
            sys.exit(CANNOT)
        before = resident("VmRSS")
        if resident("VmHWM") > before + 2:
            sys.exit(CANNOT)
        return before

    def peak() -> float:
        if device == "cuda":
            torch.cuda.synchronize()
            return torch.cuda.max_memory_allocated() / MB
        return resident("VmHWM")

    def size(values) -> float:
        tensors = [x for x in values if isinstance(x, torch.Tensor)]
        return sum(x.numel() * x.element_size() for x in tensors) / MB

    with pk.use_backend(backend):
        warm = move(contract.tame.make(torch.float32), device)
        moving = contract.moving(contract.run(warm))
        contract.gradients(contract.run, warm, [torch.ones_like(y) for y in moving])
        del moving
        (large,) = (each for each in contract.realistic if each.id == case)
        inputs = contract.with_grad(move(large.make(torch.float32), device))
        before = reset()
        outputs = contract.run(inputs)
        extra = peak() - before
        room = contract.room(inputs, size([*inputs.values(), *outputs]))
        print("PEAK forward", extra, size(outputs), room)
        wanted = [inputs[name] for name in contract.wanted(inputs)]
        if not wanted:
            return
        moving = contract.moving(outputs)
        incoming = [torch.ones_like(y) for y in moving]
        before = reset()
        grads = torch.autograd.grad(moving, wanted, incoming)
        extra = peak() - before
        room = contract.room(inputs, size([*inputs.values(), *outputs, *incoming, *grads]))
        print("PEAK backward", extra, size(grads), room)


if __name__ == "__main__":
    main(*sys.argv[1:])
