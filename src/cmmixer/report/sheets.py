"""The page of `cmmixer inspect`: sheets of pictures, each with sounds to listen to."""

from __future__ import annotations

import io
import wave
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cmmixer.atomic import write_atomically
from cmmixer.report.page import templates


@dataclass(frozen=True)
class Listen:
    """A sound on the page: what it is, and its wave file."""

    caption: str
    wav: bytes


@dataclass(frozen=True)
class Sheet:
    """One section of the page.

    Attributes:
        title, words: above the picture.
        png, alt: the picture, and what it shows in words.
        sounds: beside it.
    """

    title: str
    words: str
    png: bytes
    alt: str
    sounds: Sequence[Listen] = ()


def write_sheets(path: Path, title: str, lead: str, sheets: Sequence[Sheet]) -> Path:
    """Writes the page; it fetches nothing from anywhere."""
    template = templates().get_template("inspect.html.j2")
    write_atomically(path, template.render(title=title, lead=lead, sheets=sheets))
    return path


def wav(samples_N: NDArray[np.number], sample_rate_hz: int) -> bytes:
    """A wave file of int16 samples, or of floats with full scale 1; what is louder is clipped."""
    if samples_N.dtype != np.int16:
        samples_N = (np.clip(samples_N, -1.0, 1.0) * 32767.0).astype(np.int16)
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(sample_rate_hz)
        sound.writeframes(samples_N.astype("<i2").tobytes())
    return file.getvalue()
