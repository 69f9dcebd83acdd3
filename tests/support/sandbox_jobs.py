"""Functions that tests run in sandbox processes. Imports no test libraries, so that processes start fast."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from cmmixer.errors import MediaError
from cmmixer.media.decode import MediaFile


def work(item: str | Path) -> str:
    """Returns the item twice, or does what its name says."""
    name = str(item)
    if name == "hang":
        time.sleep(60)
    if name == "die":
        os._exit(3)
    if name == "refuse":
        raise MediaError(name, "silent", "not a sound")
    if name == "bug":
        raise ZeroDivisionError
    if name == "hoard":
        return str(len(bytearray(2 << 30)))
    if name == "who":
        return str(os.getpid())
    if name == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if name.startswith("killed once "):
        marker = Path(name.removeprefix("killed once "))
        if not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
    if name == "server":
        return str(os.getppid())
    if name == "no pickle":
        return lambda: None  # type: ignore[return-value]
    if name == "slow":
        time.sleep(0.2)
    return name * 2


def probe(path: str) -> tuple[str | None, str | None]:
    """Opens a file and decodes its streams; returns the outcome for video and audio: None, `used` or the reason of an error."""
    with MediaFile.open(path, 20.0) as media:
        instants = np.array([0.2, 0.6]) * media.info.duration_seconds
        video = audio = None
        if media.info.video is not None:
            video = _outcome(lambda: media.frames(instants, 32, 48).pixels_THWC.shape == (2, 32, 48, 3))
        if media.info.audio is not None:
            audio = _outcome(lambda: media.audio_windows(instants, 0.5, 8000).samples_TN.shape == (2, 4000))
    return video, audio


def _outcome(decode: Callable[[], bool]) -> str:
    try:
        assert decode()
    except MediaError as error:
        return error.reason
    return "used"
