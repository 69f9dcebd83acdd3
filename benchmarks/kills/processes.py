"""Starts commands so that all or some of their processes can be killed, and keeps their standard error."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_SECONDS = 240.0


class Job:
    """A running command, in a process group of its own.

    Attributes:
        pid: of its first process: the command, or torchrun.
        log: file with its standard error.
    """

    def __init__(self, pid: int, log: Path) -> None:
        self.pid, self.log = pid, log

    def poll(self) -> int | None:
        """Returns the exit code, negative for a signal; None while it runs."""
        raise NotImplementedError

    def wait(self, seconds: float = TIMEOUT_SECONDS) -> int | None:
        """Waits for the exit code; returns None after a timeout."""
        deadline = time.monotonic() + seconds
        while (code := self.poll()) is None and time.monotonic() < deadline:
            time.sleep(0.02)
        return code

    def kill_all(self) -> None:
        """Kills the process group and all descendants with SIGKILL."""
        descendants = self.family()
        os.killpg(self.pid, signal.SIGKILL)
        for process in descendants:
            _kill(process)
        self.wait()

    def family(self) -> list[psutil.Process]:
        """Returns all descendants of the first process."""
        try:
            return psutil.Process(self.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def ranks(self) -> list[psutil.Process]:
        """Returns the training processes started by torchrun."""
        try:
            children = psutil.Process(self.pid).children()
            return [child for child in children if "cmmixer" in child.cmdline()]
        except psutil.Error:
            return []

    def workers(self) -> list[psutil.Process]:
        """Returns the decoder and loader processes: children of fork servers."""
        family = self.family()
        servers = {process.pid for process in family if _is_server(process)}
        return [process for process in family if _parent(process) in servers]


class _Launched(Job):
    def __init__(self, command: Sequence[str], log: Path, environment: dict[str, str]) -> None:
        with log.open("w") as stderr:
            self._process = subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=stderr, env=environment, cwd=ROOT, start_new_session=True
            )
        super().__init__(self._process.pid, log)

    def poll(self) -> int | None:
        return self._process.poll()


class _Forked(Job):
    def __init__(self, starter: Starter, arguments: Sequence[str], log: Path, environment: dict[str, str]) -> None:
        self._starter, self._code = starter, None
        request = {"arguments": list(arguments), "log": str(log), "environment": environment}
        super().__init__(int(starter.ask(request) or 0), log)

    def poll(self) -> int | None:
        if self._code is None:
            self._code = self._starter.ask({"wait": self.pid})
        return self._code


class Starter:
    """Starts commands: forked from one process that has imported the libraries, or through torchrun for several processes."""

    def __init__(self) -> None:
        self._forks = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "benchmarks.kills.command", "--forks"],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def start(self, arguments: Sequence[str], folder: Path, *, processes: int = 1) -> Job:
        """Starts a command with its temporary files and its log in `folder`."""
        temporary = folder / "tmp"
        temporary.mkdir(exist_ok=True)
        environment = {"OMP_NUM_THREADS": "1", "TMPDIR": str(temporary)}
        log = folder / "stderr.txt"
        if processes == 1:
            return _Forked(self, arguments, log, environment)
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        return _Launched([*launcher, "-m", "cmmixer", *arguments], log, {**os.environ, **environment})

    def ask(self, request: dict[str, object]) -> int | None:
        """Sends a request to the forking process and waits for the answer."""
        assert self._forks.stdin is not None
        assert self._forks.stdout is not None
        self._forks.stdin.write(json.dumps(request) + "\n")
        self._forks.stdin.flush()
        answer: int | None = json.loads(self._forks.stdout.readline())
        return answer

    def close(self) -> None:
        """Ends the forking process."""
        assert self._forks.stdin is not None
        assert self._forks.stdout is not None
        self._forks.stdin.close()
        self._forks.stdout.close()
        self._forks.wait()


def remaining(processes: Sequence[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Waits for processes to end; returns those that still run."""
    deadline = time.monotonic() + seconds
    left = list(processes)
    while left and time.monotonic() < deadline:
        left = [process for process in left if _runs(process)]
        time.sleep(0.05)
    return left


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _is_server(process: psutil.Process) -> bool:
    """Detects a fork server: it has the same command line as its children, but its parent has another one."""
    try:
        parent = process.parent()
        return "multiprocessing.forkserver" in " ".join(process.cmdline()) and (
            parent is None or "multiprocessing.forkserver" not in " ".join(parent.cmdline())
        )
    except psutil.Error:
        return False


def _parent(process: psutil.Process) -> int:
    try:
        return process.ppid()
    except psutil.Error:
        return 0


def _kill(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.Error):
        process.kill()
