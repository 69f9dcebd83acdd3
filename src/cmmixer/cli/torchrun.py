"""What a process says when it is terminated, in particular one of several that torchrun started. Does not import torch."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

_POLL_SECONDS = 1.0


class TerminatedError(BaseException):
    """SIGTERM, raised in the main thread so that the program cleans up on its way out."""


def report_to_torchrun(line: str) -> None:
    """Hands an error message to torchrun, whose summary then names it as the cause instead of an exit code."""
    file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if file:
        with contextlib.suppress(OSError):
            Path(file).write_text(json.dumps({"message": f"cmmixer: {line}", "timestamp": int(time.time())}))


@contextlib.contextmanager
def explain_termination() -> Iterator[None]:
    """Handles SIGTERM within the block.

    A single process raises `TerminatedError` and cleans up. One of several processes ends at once and says why: torchrun
    terminates it because another process has ended, and it would wait for that process in a collective forever.

    One of several processes also ends if torchrun itself is killed. Otherwise it would train on unseen, and a second run of
    the command would write to the same folder.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    if world == 1:
        before = signal.signal(signal.SIGTERM, _raise_terminated)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)
        return
    # A Python handler runs in the main thread, which may wait inside a collective. So the signal wakes a thread by a pipe.
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reading, world), daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, before)
        os.close(writing)


def _raise_terminated(*_: object) -> NoReturn:
    raise TerminatedError


def _watch(reading: int, world: int) -> None:
    # A process that was launched without torchrun may outlive what started it.
    launcher = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None
    signals = None
    while signals != b"":
        signals = os.read(reading, 64) if select.select([reading], [], [], _POLL_SECONDS)[0] else None
        if launcher not in (None, os.getppid()):
            _exit(world, "lost torchrun, which was killed")
        if signals and signal.SIGTERM in signals:
            _exit(world, "was terminated, as torchrun does when another process was killed or failed")
    os.close(reading)


def _exit(world: int, why: str) -> NoReturn:
    with contextlib.suppress(OSError):  # the reader of stderr may have ended too
        print(
            f"cmmixer: process {os.environ.get('RANK')} of {world} {why}; "
            "the same command resumes from the last checkpoint, on any number of processes",
            file=sys.stderr,
            flush=True,
        )
    os._exit(128 + signal.SIGTERM)
