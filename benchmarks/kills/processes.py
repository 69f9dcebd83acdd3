"""Starting a command so that all of it, or one process of it, can be killed; and what it said."""

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
LONGEST_SECONDS = 240.0


class Job:
    """A command that runs, in a process group of its own.

    Attributes:
        pid: of its first process: the command, or torchrun.
        log: file with what it says on standard error.
    """

    def __init__(self, pid: int, log: Path) -> None:
        self.pid, self.log = pid, log

    def poll(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        raise NotImplementedError

    def wait(self, seconds: float = LONGEST_SECONDS) -> int | None:
        """Its exit code; None if it still runs after so many seconds."""
        deadline = time.monotonic() + seconds
        while (code := self.poll()) is None and time.monotonic() < deadline:
            time.sleep(0.02)
        return code

    def kill_all(self) -> None:
        """Kills, with signal 9, the process group and of what the processes of it started."""
        everything = self.family()
        os.killpg(self.pid, signal.SIGKILL)
        for process in everything:
            _kill(process)
        self.wait()

    def family(self) -> list[psutil.Process]:
        """All processes under the first one."""
        try:
            return psutil.Process(self.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def ranks(self) -> list[psutil.Process]:
        """The training processes that torchrun started."""
        try:
            children = psutil.Process(self.pid).children()
            return [child for child in children if "cmmixer" in child.cmdline()]
        except psutil.Error:
            return []

    def workers(self) -> list[psutil.Process]:
        """The decoding and loading processes: children of the servers that fork them."""
        family = self.family()
        servers = {process.pid for process in family if _is_server(process)}
        return [process for process in family if _parent(process) in servers]


class _Launched(Job):
    def __init__(self, command: Sequence[str], log: Path, environment: dict[str, str]) -> None:
        with log.open("w") as told:
            self._process = subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=told, env=environment, cwd=ROOT, start_new_session=True
            )
        super().__init__(self._process.pid, log)

    def poll(self) -> int | None:
        return self._process.poll()


class _Forked(Job):
    def __init__(self, starter: Starter, arguments: Sequence[str], log: Path, environment: dict[str, str]) -> None:
        self._starter, self._code = starter, None
        order = {"arguments": list(arguments), "log": str(log), "environment": environment}
        super().__init__(int(starter.ask(order) or 0), log)

    def poll(self) -> int | None:
        if self._code is None:
            self._code = self._starter.ask({"wait": self.pid})
        return self._code


class Starter:
    """Starts commands, forked from one process that has the libraries already; several at once through torchrun."""

    def __init__(self) -> None:
        self._forks = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "benchmarks.kills.command", "--forks"],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def start(self, arguments: Sequence[str], folder: Path, *, processes: int = 1) -> Job:
        """Starts a command; its temporary files and its log go to `folder`."""
        temporary = folder / "tmp"
        temporary.mkdir(exist_ok=True)
        own = {"OMP_NUM_THREADS": "1", "TMPDIR": str(temporary)}
        log = folder / "told.txt"
        if processes == 1:
            return _Forked(self, arguments, log, own)
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        return _Launched([*launcher, "-m", "cmmixer", *arguments], log, {**os.environ, **own})

    def ask(self, order: dict[str, object]) -> int | None:
        """Hands an order to the process that forks, and waits for its answer."""
        assert self._forks.stdin is not None
        assert self._forks.stdout is not None
        self._forks.stdin.write(json.dumps(order) + "\n")
        self._forks.stdin.flush()
        answer: int | None = json.loads(self._forks.stdout.readline())
        return answer

    def close(self) -> None:
        """Ends the process that forks."""
        assert self._forks.stdin is not None
        assert self._forks.stdout is not None
        self._forks.stdin.close()
        self._forks.stdout.close()
        self._forks.wait()


def remaining(processes: Sequence[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Waits for processes to end; those that do not."""
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
    """Servers and what they fork have the same command line; only a server's parent has another one."""
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
