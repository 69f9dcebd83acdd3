"""What `cmmixer dub` takes."""

from __future__ import annotations

from dataclasses import dataclass

from cmmixer.config.check import within


@dataclass(frozen=True, kw_only=True)
class DubSettings:
    """Lay a sound under a film: pictures copied untouched, loudness matched, ends faded.

    Attributes:
        film: the film; its pictures are copied, not encoded again
        sound: a sound, or a film whose sound is taken
        out: film to write; .mp4 and .mkv get AAC, .mov gets PCM
        start: second of the sound that is laid at `--at`
        at: second of the film where the sound begins
        loudness_lufs: integrated loudness of the result; -23 is EBU R128, web platforms often ask for -14 to -16
        fade_in_seconds: length of the fade at the sound's beginning
        fade_out_seconds: length of the fade at its end, or at the film's
        duck: keep the film's own sound; the new one gives way while it is heard
        file_seconds: longest time spent on it all
    """

    film: str
    sound: str
    out: str
    start: float = 0.0
    at: float = 0.0
    loudness_lufs: float = -23.0
    fade_in_seconds: float = 0.02
    fade_out_seconds: float = 1.0
    duck: bool = False
    file_seconds: float = 7200.0

    def __post_init__(self) -> None:
        for name in ("start", "at", "fade_in_seconds", "fade_out_seconds"):
            within(name, getattr(self, name), 0.0, float("inf"), open_high=True)
        within("loudness_lufs", self.loudness_lufs, -60.0, -5.0)
        within("file_seconds", self.file_seconds, 0.0, float("inf"), open_low=True)
