"""Work for other processes; kept free of test libraries, so that they start fast."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np

from cmmixer.errors import MediaError
from cmmixer.media.decode import Film


def work(item: str | Path) -> str:
    name = str(item)
    if name == "hang":
        time.sleep(60)
    if name == "die":
        os._exit(3)
    if name == "refuse":
        raise MediaError(name, "silent", "not a sound")
    if name == "fault":
        raise ZeroDivisionError
    if name == "hoard":
        return str(len(bytearray(2 << 30)))
    if name == "who":
        return str(os.getpid())
    if name == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if name.startswith("killed once "):
        mark = Path(name.removeprefix("killed once "))
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
    if name == "server":
        return str(os.getppid())
    if name == "no pickle":
        return lambda: None  # type: ignore[return-value]
    if name == "slow":
        time.sleep(0.2)
    return name * 2


def probe(path: str) -> tuple[str | None, str | None]:
    """Opens a file and takes from it what it has: what became of picture and sound, `used` or a reason."""
    with Film.open(path, 20.0) as film:
        instants = np.array([0.2, 0.6]) * film.info.duration_seconds
        picture = sound = None
        if film.info.picture is not None:
            picture = _outcome(lambda: film.frames(instants, 32, 48).pixels_THWC.shape == (2, 32, 48, 3))
        if film.info.sound is not None:
            sound = _outcome(lambda: film.sound_windows(instants, 0.5, 8000).samples_TN.shape == (2, 4000))
    return picture, sound


def _outcome(attempt: object) -> str:
    try:
        assert callable(attempt)
        assert attempt()
    except MediaError as error:
        return error.reason
    return "used"
