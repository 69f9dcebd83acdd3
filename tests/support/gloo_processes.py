"""Several real processes joined by gloo on this machine: spawned for one function, or forked as a job of a module of the tests."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from tests.support.commands import ENVIRONMENT


def run_processes(function: Callable[..., Any], world: int, *arguments: Any) -> list[Any]:
    """Returns what `function(rank, *arguments)` returned in each of `world` processes."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_enter, args=(world, folder, function, arguments), nprocs=world)
        return [torch.load(Path(folder) / f"{rank}.pt", weights_only=False) for rank in range(world)]


def _enter(rank: int, world: int, folder: str, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    try:
        torch.save(function(rank, *arguments), Path(folder) / f"{rank}.pt")
        dist.barrier()
    except BaseException:
        dist.destroy_process_group()
        raise
    # All results are written. Shutting down gloo and DDP was twice seen to end in "terminate called without an active
    # exception" (torch 2.13, after hundreds of other tests; the cause was not found), and nothing here needs it.
    os._exit(0)


def run_module(module: str, *arguments: object, timeout: float = 300.0) -> str:
    """Runs `python -m MODULE ARGUMENTS`, a module that calls `fork_job`; returns what it printed."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    ended = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=timeout)
    assert ended.returncode == 0, ended.stderr[-2000:]
    return ended.stdout


def fork_job(world: int, function: Callable[[], None]) -> None:
    """Runs a function in `world` forks of this process, with the environment variables that torchrun sets.

    Torch and Lightning are imported once, by this process, where torchrun would import them in each. Nothing may have
    computed with torch before, since its threads do not survive a fork.

    Raises:
        SystemExit: a process failed; the others were killed.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = {_fork(rank, world, port, function) for rank in range(world)}
    failed = False
    while children:
        child, status = os.wait()
        children.discard(child)
        if status and not failed:
            failed = True
            for other in children:
                os.kill(other, 9)
    if failed:
        sys.exit(f"a process of {world} failed")


def _fork(rank: int, world: int, port: int, function: Callable[[], None]) -> int:
    child = os.fork()
    if child:
        return child
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        GROUP_RANK="0",
        WORLD_SIZE=str(world),
        LOCAL_WORLD_SIZE=str(world),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        TORCHELASTIC_RUN_ID="test",
        GLOO_SOCKET_IFNAME="lo",
    )
    code = 1
    try:
        torch.set_num_threads(1)
        function()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # see `_enter`
