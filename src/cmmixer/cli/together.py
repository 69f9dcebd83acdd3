"""What one of the processes that torchrun started tells people: torch-free, and nothing for a process alone."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path


def tell_torchrun(line: str) -> None:
    """Hands a complaint to torchrun, whose summary then names it as the cause instead of an exit code alone."""
    file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if file:
        with contextlib.suppress(OSError):
            Path(file).write_text(json.dumps({"message": f"cmmixer: {line}", "timestamp": int(time.time())}))


@contextlib.contextmanager
def explain_end() -> Iterator[None]:
    """Where torchrun ends this process because another one is gone, it says so and what to do, and ends at once.

    A handler in Python would wait for the main thread, which waits inside a collective for the lost process; so the signal
    wakes a thread through a pipe.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1 or threading.current_thread() is not threading.main_thread():
        yield
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


def _wait(reading: int, world: int) -> None:
    while signals := os.read(reading, 64):
        if signal.SIGTERM in signals:
            print(
                f"cmmixer: process {os.environ.get('RANK')} of {world} was ended from outside, as torchrun does when another one was "
                "killed or failed; the same command goes on from the last checkpoint, also on another number of processes",
                file=sys.stderr,
                flush=True,
            )
            os._exit(128 + signal.SIGTERM)
    os.close(reading)
