# SPDX-License-Identifier: Apache-2.0
"""Data loaders whose worker processes call every op, forked and spawned.

A pool of threads that a parent has used does not exist in a forked child: to wait for it is to wait
for ever. So all of it runs in a process of its own, which is ended after a while.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from every_op import CONTRACTS

HERE = Path(__file__).resolve().parent


def test_data_loaders():
    command = [sys.executable, str(HERE / "loader_worker.py"), "fork", "spawn"]
    child = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )
    try:
        out, err = child.communicate(timeout=300)
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
    assert child.returncode == 0, err[-3000:]
    assert out.splitlines() == [f"{name} {len(CONTRACTS)}" for name in ("fork", "spawn")]
