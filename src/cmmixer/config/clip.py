"""What a clip is: how many frames, how large, how long, and the sound window of each frame."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from cmmixer.config.check import at_least, within
from cmmixer.config.presets import preset
from cmmixer.errors import SettingsError


@dataclass(frozen=True, kw_only=True)
class ClipSettings:
    """Geometry of a clip, every value known. Two encoders or stores fit together only if theirs are equal.

    Attributes:
        frames: T, frames of a clip; the instants are the centres of T equal cells of the clip.
        height: H, pixels of a frame and mel bands of a mel picture.
        width: W, pixels of a frame and time columns of a mel picture.
        clip_seconds: length of a clip.
        window_seconds: length of the sound window centred on each frame instant.
        sample_rate_hz: rate the sound is resampled to.
    """

    frames: int
    height: int
    width: int
    clip_seconds: float
    window_seconds: float
    sample_rate_hz: int

    def __post_init__(self) -> None:
        for name in ("frames", "height", "width"):
            at_least(name, getattr(self, name), 1)
        within("clip_seconds", self.clip_seconds, 0.0, float("inf"), open_low=True, open_high=True)
        within("window_seconds", self.window_seconds, 0.0, float("inf"), open_low=True, open_high=True)
        within("sample_rate_hz", self.sample_rate_hz, 1000, 192000)
        if self.window_samples < self.width:
            raise SettingsError(
                f"--window_seconds: {self.window_seconds} s at {self.sample_rate_hz} Hz is {self.window_samples} samples, "
                f"too few for {self.width} columns; give a longer window or a narrower picture"
            )

    @property
    def window_samples(self) -> int:
        """N, samples of a sound window. Published: 2.6 s x 44,100 Hz = 114,660."""
        return round(self.window_seconds * self.sample_rate_hz)


@dataclass(frozen=True, kw_only=True)
class ClipOptions:
    """Clip geometry as a user gives it: what is left out comes from the preset.

    Attributes:
        frames: frames of a clip; default: the preset's
        height: pixels of a frame, and mel bands; default: the preset's
        width: pixels of a frame, and mel columns; default: the preset's
        clip_seconds: length of a clip in seconds; default: the preset's
        window_seconds: length of the sound window of each frame in seconds; default: the preset's
        sample_rate_hz: rate the sound is resampled to; default: the preset's
    """

    frames: int | None = None
    height: int | None = None
    width: int | None = None
    clip_seconds: float | None = None
    window_seconds: float | None = None
    sample_rate_hz: int | None = None

    def clip_settings(self, preset_name: str) -> ClipSettings:
        """These options, completed from a preset.

        Raises:
            SettingsError: an unknown preset or an impossible value.
        """
        base = preset(preset_name)
        values = {}
        for field in dataclasses.fields(ClipSettings):
            given = getattr(self, field.name)
            values[field.name] = getattr(base, field.name) if given is None else given
        return ClipSettings(**values)
