"""Seconds <-> SMPTE timecode (ST 12-1): hours:minutes:seconds:frames, counted at a nominal whole rate.

At 29.97 and 59.94 frames per second the count falls behind the clock by 3.6 s an hour. Drop-frame timecode leaves out
numbers, never frames: the first two (four) of each minute but every tenth. 23.976 is counted without.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Self

# Rates that editing programs have projects in.
_STANDARD = [Fraction(rate * 1000, 1001) for rate in (24, 30, 60)] + [
    Fraction(rate) for rate in (24, 25, 30, 48, 50, 60)
]
# Containers say 29.97 or 30000/1001 or what an average over the file comes to.
_SAME_RATE = 5e-4
_MOST_TIMES = 6


@dataclass(frozen=True)
class FrameRate:
    """A rate of timecode.

    Attributes:
        exact: frames per second.
    """

    exact: Fraction

    @property
    def nominal(self) -> int:
        """Frames that are counted to a second."""
        return math.ceil(self.exact)

    @property
    def drops(self) -> bool:
        """Whether numbers are left out so that the count keeps to the clock."""
        return self.exact.denominator != 1 and self.nominal % 30 == 0

    @classmethod
    def fitting(cls, frames_per_second: float) -> Self:
        """The standard rate for pictures of any rate.

        The same, or the smallest that is a whole multiple (12.5 -> 25), so that every picture begins with a frame; else the
        nearest, as for a phone's varying rate.
        """
        for times in range(1, _MOST_TIMES + 1):
            for rate in sorted(_STANDARD):
                if abs(frames_per_second * times / float(rate) - 1) < _SAME_RATE:
                    return cls(rate)
        return cls(min(_STANDARD, key=lambda rate: abs(math.log(float(rate) / max(frames_per_second, 1e-9)))))

    def frames(self, seconds: float) -> int:
        """The frame that begins nearest to an instant."""
        return math.floor(seconds * self.exact + Fraction(1, 2))

    def timecode(self, frame: int) -> str:
        """The number of a frame; after 24 hours it begins anew."""
        if self.drops:
            left_out = self.nominal // 15
            tens, rest = divmod(frame, self.nominal * 600 - 9 * left_out)
            frame += 9 * left_out * tens
            if rest >= self.nominal * 60:
                frame += left_out * ((rest - self.nominal * 60) // (self.nominal * 60 - left_out) + 1)
        seconds, frames = divmod(frame, self.nominal)
        hours, minutes = seconds // 3600 % 24, seconds // 60 % 60
        return f"{hours:02d}:{minutes:02d}:{seconds % 60:02d}{';' if self.drops else ':'}{frames:02d}"

    def seconds_of(self, timecode: str) -> float | None:
        """When the frame of a number begins; None for what is no timecode."""
        found = re.fullmatch(r"(\d\d):(\d\d):(\d\d)[:;.](\d\d)", timecode.strip())
        if found is None:
            return None
        hours, minutes, seconds, frames = map(int, found.groups())
        minutes += 60 * hours
        count = (60 * minutes + seconds) * self.nominal + frames
        if self.drops:
            count -= self.nominal // 15 * (minutes - minutes // 10)
        return float(count / self.exact)
