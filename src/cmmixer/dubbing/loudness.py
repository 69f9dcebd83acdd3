"""How loud a sound is: integrated loudness and true peak after EBU R128 (ITU-R BS.1770), by libavfilter's ebur128."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from cmmixer.dubbing.filters import BLOCK_SAMPLES, Block, filtered, in_line

# The filter says -70 where no block of 400 ms passes the absolute gate.
_GATE_LUFS = -70.0


@dataclass(frozen=True)
class Loudness:
    """What was measured.

    Attributes:
        lufs: integrated loudness; None where nothing is loud or long enough to have one.
        true_peak_dbtp: highest peak between the samples, decibels relative to full scale.
    """

    lufs: float | None
    true_peak_dbtp: float


def measure(blocks: Iterable[Block]) -> Loudness:
    """Loudness of a stereo sound at 48 kHz."""
    told: dict[str, str] = {}
    for frame in filtered([_whole(blocks)], in_line(("ebur128", "metadata=1:peak=true:framelog=quiet"))):
        told = dict(frame.metadata) or told
    lufs = float(told.get("lavfi.r128.I", _GATE_LUFS))
    peak = float(told.get("lavfi.r128.true_peak", 0.0))
    return Loudness(lufs if lufs > _GATE_LUFS else None, decibels(peak))


def decibels(ratio: float) -> float:
    """20 log10; minus infinity for nothing."""
    return 20.0 * math.log10(ratio) if ratio > 0 else -math.inf


def _whole(blocks: Iterable[Block]) -> Iterator[Block]:
    """The sound and silence up to a full 100 ms: the filter tells nothing about a stretch that is cut short."""
    total = 0
    for block in blocks:
        total += block.shape[1]
        yield block
    yield np.zeros((2, -total % BLOCK_SAMPLES or BLOCK_SAMPLES), np.float32)
