"""Real processes of the command line, for tests that start, kill and compare them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


def cmmixer(*arguments: str | Path, timeout: float = 300.0) -> subprocess.CompletedProcess[str]:
    """Runs one command to its end."""
    command = [sys.executable, "-m", "cmmixer", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=timeout)


def start(*arguments: str | Path) -> subprocess.Popen[bytes]:
    """Starts one command, in a process group of its own so that all of it can be killed."""
    command = [sys.executable, "-m", "cmmixer", *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=ENVIRONMENT, start_new_session=True
    )


def torchrun(processes: int, *arguments: str | Path, timeout: float = 300.0) -> subprocess.CompletedProcess[str]:
    """Runs one command on several processes, as people do on several GPUs."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [*launcher, "-m", "cmmixer", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=timeout)
