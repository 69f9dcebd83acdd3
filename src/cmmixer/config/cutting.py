"""How films are cut into moments."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from cmmixer.config.check import within
from cmmixer.config.clip import ClipSettings


@dataclass(frozen=True, kw_only=True)
class CuttingSettings:
    """How films are cut into moments.

    Attributes:
        moment_seconds: length of a moment; it has as many frames a second as a clip; default: a clip of the model
        stride_seconds: a moment starts every so many seconds; default: half a moment
        shots: moments end where a shot ends, and begin anew with the next
    """

    moment_seconds: float | None = None
    stride_seconds: float | None = None
    shots: bool = False

    def __post_init__(self) -> None:
        for name in ("moment_seconds", "stride_seconds"):
            value = getattr(self, name)
            if value is not None:
                within(name, value, 0.0, float("inf"), open_low=True, open_high=True)

    def of(self, clip: ClipSettings) -> CuttingSettings:
        """The same with every value known, for a model of this clip."""
        moment = clip.clip_seconds if self.moment_seconds is None else self.moment_seconds
        return CuttingSettings(
            moment_seconds=moment,
            stride_seconds=moment / 2 if self.stride_seconds is None else self.stride_seconds,
            shots=self.shots,
        )

    def moment(self, clip: ClipSettings) -> ClipSettings:
        """Geometry of a moment: a clip of another length has more or fewer frames, as far apart as the model learnt."""
        if self.moment_seconds is None or self.moment_seconds == clip.clip_seconds:
            return clip
        frames = max(1, round(clip.frames * self.moment_seconds / clip.clip_seconds))
        return dataclasses.replace(clip, frames=frames, clip_seconds=self.moment_seconds)
