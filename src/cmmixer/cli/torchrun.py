"""What one of the processes that torchrun started tells people: torch-free, and nothing for a process alone."""

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

_LOOK_SECONDS = 1.0


class EndedError(BaseException):
    """SIGTERM, raised where the program stands, so that it tidies up on its way out."""


def tell_torchrun(line: str) -> None:
    """Hands a complaint to torchrun, whose summary then names it as the cause instead of an exit code alone."""
    file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if file:
        with contextlib.suppress(OSError):
            Path(file).write_text(json.dumps({"message": f"cmmixer: {line}", "timestamp": int(time.time())}))


@contextlib.contextmanager
def explain_end() -> Iterator[None]:
    """What SIGTERM does: a process alone tidies up and ends, one of several says why and ends at once.

    Where torchrun ends this process because another one is gone, it says so and what to do.

    If torchrun itself is killed it ends too: nobody would see it go on, and a second call would meet it in the same folder.
    A handler in Python would wait for the main thread, which waits inside a collective for the lost process; so the signal
    wakes a thread through a pipe.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    if world == 1:
        before = signal.signal(signal.SIGTERM, _raise_ended)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)
        return
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=_wait, args=(reading, world), daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, before)
        os.close(writing)


def _raise_ended(*_: object) -> NoReturn:
    raise EndedError


def _wait(reading: int, world: int) -> None:
    # Launched some other way, a process may well outlive what started it.
    launcher = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None
    signals = None
    while signals != b"":
        signals = os.read(reading, 64) if select.select([reading], [], [], _LOOK_SECONDS)[0] else None
        if launcher not in (None, os.getppid()):
            _leave(world, "lost torchrun, which was killed")
        if signals and signal.SIGTERM in signals:
            _leave(world, "was ended from outside, as torchrun does when another one was killed or failed")
    os.close(reading)


def _leave(world: int, why: str) -> NoReturn:
    with contextlib.suppress(OSError):  # whoever read this may be gone too
        print(
            f"cmmixer: process {os.environ.get('RANK')} of {world} {why}; "
            "the same command goes on from the last checkpoint, also on another number of processes",
            file=sys.stderr,
            flush=True,
        )
    os._exit(128 + signal.SIGTERM)
