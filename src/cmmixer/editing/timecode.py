"""SMPTE timecode (ST 12-1): hours:minutes:seconds:frames, counted at a nominal whole rate.

At 29.97 and 59.94 frames per second the count falls behind the clock by 3.6 s an hour. Drop-frame timecode skips numbers, never
frames: the first two (four) of every minute except each tenth. 23.976 is counted without drops.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Self

# Rates for which editing programs have projects.
_STANDARD_RATES = [Fraction(rate * 1000, 1001) for rate in (24, 30, 60)] + [
    Fraction(rate) for rate in (24, 25, 30, 48, 50, 60)
]

# Containers state 29.97 or 30000/1001, or an average over the file that is close to it.
_RATE_TOLERANCE = 5e-4

_MAX_MULTIPLE = 6


@dataclass(frozen=True)
class FrameRate:
    """The frame rate of a timecode.

    Attributes:
        exact: frames per second.
    """

    exact: Fraction

    @property
    def nominal(self) -> int:
        """Frames counted per second."""
        return math.ceil(self.exact)

    @property
    def drops(self) -> bool:
        """Whether numbers are skipped so that the count keeps up with the clock."""
        return self.exact.denominator != 1 and self.nominal % 30 == 0

    @classmethod
    def fitting(cls, frames_per_second: float) -> Self:
        """Returns the standard rate that fits a video of any rate.

        That is the rate itself, or the smallest standard rate that is a whole multiple (12.5 -> 25), so that every frame of the
        video begins with a frame of the timecode; otherwise the nearest one, for instance for a phone's variable rate.
        """
        for multiple in range(1, _MAX_MULTIPLE + 1):
            for rate in sorted(_STANDARD_RATES):
                if abs(frames_per_second * multiple / float(rate) - 1) < _RATE_TOLERANCE:
                    return cls(rate)
        return cls(min(_STANDARD_RATES, key=lambda rate: abs(math.log(float(rate) / max(frames_per_second, 1e-9)))))

    def frames(self, seconds: float) -> int:
        """Returns the number of the frame that begins nearest to an instant."""
        return math.floor(seconds * self.exact + Fraction(1, 2))

    def timecode(self, frame: int) -> str:
        """Returns the timecode of a frame; it wraps around after 24 hours."""
        if self.drops:
            dropped = self.nominal // 15
            tens, rest = divmod(frame, self.nominal * 600 - 9 * dropped)
            frame += 9 * dropped * tens
            if rest >= self.nominal * 60:
                frame += dropped * ((rest - self.nominal * 60) // (self.nominal * 60 - dropped) + 1)
        seconds, frames = divmod(frame, self.nominal)
        hours, minutes = seconds // 3600 % 24, seconds // 60 % 60
        return f"{hours:02d}:{minutes:02d}:{seconds % 60:02d}{';' if self.drops else ':'}{frames:02d}"

    def seconds_of(self, timecode: str) -> float | None:
        """Returns the time at which the frame of a timecode begins; None if it is not a timecode."""
        match = re.fullmatch(r"(\d\d):(\d\d):(\d\d)[:;.](\d\d)", timecode.strip())
        if match is None:
            return None
        hours, minutes, seconds, frames = map(int, match.groups())
        minutes += 60 * hours
        count = (60 * minutes + seconds) * self.nominal + frames
        if self.drops:
            count -= self.nominal // 15 * (minutes - minutes // 10)
        return float(count / self.exact)
