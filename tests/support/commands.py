"""Real processes of the command line, for tests that start, kill and compare them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # For modules of the tests that run in processes of their own.
    "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
}


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
    return torchrun_module(processes, "cmmixer", *arguments, timeout=timeout)


def torchrun_module(
    processes: int, module: str, *arguments: str | Path, timeout: float = 300.0
) -> subprocess.CompletedProcess[str]:
    """Runs a module on several processes."""
    command = torchrun_command(processes, module, *arguments)
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=timeout)


def torchrun_command(processes: int, module: str, *arguments: str | Path) -> list[str]:
    """The words of such a run."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return [*launcher, "-m", module, *map(str, arguments)]
