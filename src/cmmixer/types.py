"""Small checked values that travel between the storeys. No torch is imported here.

Letters: T frames of a clip, H x W pixels, N samples of a sound window, B clips of a batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Span:
    """A half-open stretch of time `[start_seconds, end_seconds)`, counted from the film's beginning."""

    start_seconds: float
    end_seconds: float

    def __post_init__(self) -> None:
        if not self.end_seconds > self.start_seconds:
            raise ValueError(f"a span must end after it starts; got {self.start_seconds} .. {self.end_seconds} s")

    @property
    def duration_seconds(self) -> float:
        return self.end_seconds - self.start_seconds


@dataclass(frozen=True)
class Frames:
    """Pictures of a film at given instants.

    Attributes:
        pixels_THWC: uint8, red-green-blue.
        times_seconds_T: float64, the instants asked for, from the film's beginning.
    """

    pixels_THWC: NDArray[np.uint8]
    times_seconds_T: NDArray[np.float64]

    def __post_init__(self) -> None:
        pixels, times = self.pixels_THWC, self.times_seconds_T
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[3] != 3:
            raise ValueError(f"frames must be uint8 (T, H, W, 3); got {pixels.dtype} {pixels.shape}")
        if times.shape != (pixels.shape[0],):
            raise ValueError(f"{pixels.shape[0]} frames need {pixels.shape[0]} times; got {times.shape}")


@dataclass(frozen=True)
class SoundWindows:
    """Mono sound windows, one centred on each frame instant.

    Attributes:
        samples_TN: int16 PCM; zero where a window reaches beyond the film's sound.
        centres_seconds_T: float64, the instants the windows are centred on.
        sample_rate_hz: samples per second.
    """

    samples_TN: NDArray[np.int16]
    centres_seconds_T: NDArray[np.float64]
    sample_rate_hz: int

    def __post_init__(self) -> None:
        samples = self.samples_TN
        if samples.dtype != np.int16 or samples.ndim != 2:
            raise ValueError(f"sound windows must be int16 (T, N); got {samples.dtype} {samples.shape}")
        if self.centres_seconds_T.shape != (samples.shape[0],):
            raise ValueError(f"{samples.shape[0]} windows need {samples.shape[0]} centres")


@dataclass(frozen=True)
class Clip:
    """One stretch of film, decoded. At least one of `frames` and `sound` is there.

    Attributes:
        id: `path#start-end`, unique in a data set; see `cmmixer.data.manifest.clip_id`.
        source: the film it was cut from; splits never cut through a source.
        span: where in the film it lies.
    """

    id: str
    source: str
    label: str | None
    span: Span
    frames: Frames | None
    sound: SoundWindows | None

    def __post_init__(self) -> None:
        if self.frames is None and self.sound is None:
            raise ValueError(f"clip {self.id} has neither picture nor sound")


@dataclass
class Batch:
    """Clips stacked for the device.

    Attributes:
        ids: clip ids, length B.
        labels: class names or None, length B.
        video_BTCHW: uint8 pictures, C = 3.
        audio_BTN: int16 PCM windows.
    """

    ids: list[str]
    labels: list[str | None]
    video_BTCHW: Tensor
    audio_BTN: Tensor

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: object) -> Batch:
        """The same batch with its tensors on `device`."""
        return Batch(
            self.ids,
            self.labels,
            self.video_BTCHW.to(device, non_blocking=True),  # type: ignore[call-overload]
            self.audio_BTN.to(device, non_blocking=True),  # type: ignore[call-overload]
        )

    def pin_memory(self) -> Batch:
        """Called by torch's DataLoader when `pin_memory=True`."""
        return Batch(self.ids, self.labels, self.video_BTCHW.pin_memory(), self.audio_BTN.pin_memory())


@dataclass(frozen=True)
class Statistics:
    """What pictures and mel pictures are standardised with; measured on the training clips, kept in the card.

    Attributes:
        picture_mean, picture_std: per colour channel, pixels scaled to [0, 1].
        mel_mean, mel_std: of the log-mel pictures, in decibels.
        clips: how many clips they were measured on.
    """

    picture_mean: tuple[float, float, float]
    picture_std: tuple[float, float, float]
    mel_mean: float
    mel_std: float
    clips: int
