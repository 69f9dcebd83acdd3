"""Values that travel between the layers: spans of time, decoded clips, batches, normalization statistics.

Each checks its own shapes when it is made, and prints them instead of its arrays. Nothing here imports torch.

Letters: T frames of a clip, H x W pixels, N samples of an audio window, B clips of a batch.
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
    """A half-open interval of time `[start_seconds, end_seconds)`, measured from the beginning of the video.

    Raises:
        ValueError: the end is not after the start.
    """

    start_seconds: float
    end_seconds: float

    def __post_init__(self) -> None:
        if not self.end_seconds > self.start_seconds:
            raise ValueError(f"a span must end after it starts; got {self.start_seconds} .. {self.end_seconds} s")

    @property
    def duration_seconds(self) -> float:
        return self.end_seconds - self.start_seconds


@dataclass(frozen=True, repr=False)
class Frames:
    """Frames of a video at given instants.

    Attributes:
        pixels_THWC: uint8, RGB.
        times_seconds_T: float64, the requested instants, measured from the beginning of the video.

    Raises:
        ValueError: wrong dtype or shape, or not one time per frame.
    """

    pixels_THWC: NDArray[np.uint8]
    times_seconds_T: NDArray[np.float64]

    def __post_init__(self) -> None:
        pixels, times = self.pixels_THWC, self.times_seconds_T
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[3] != 3:
            raise ValueError(f"frames must be uint8 (T, H, W, 3); got {pixels.dtype} {pixels.shape}")
        if times.shape != (pixels.shape[0],):
            raise ValueError(f"{pixels.shape[0]} frames need {pixels.shape[0]} times; got {times.shape}")

    def __repr__(self) -> str:
        return f"Frames({_dimensions(self.pixels_THWC.shape[:3])}{_interval(self.times_seconds_T)})"


@dataclass(frozen=True, repr=False)
class AudioWindows:
    """Mono audio windows, one centred on each frame instant.

    Attributes:
        samples_TN: int16 PCM; zero where a window reaches beyond the audio stream.
        centres_seconds_T: float64, the instants on which the windows are centred.
        sample_rate_hz: samples per second.

    Raises:
        ValueError: wrong dtype or shape, or not one centre per window.
    """

    samples_TN: NDArray[np.int16]
    centres_seconds_T: NDArray[np.float64]
    sample_rate_hz: int

    def __post_init__(self) -> None:
        samples, centres = self.samples_TN, self.centres_seconds_T
        if samples.dtype != np.int16 or samples.ndim != 2:
            raise ValueError(f"audio windows must be int16 (T, N); got {samples.dtype} {samples.shape}")
        if centres.shape != (samples.shape[0],):
            raise ValueError(f"{samples.shape[0]} windows need {samples.shape[0]} centres; got {centres.shape}")

    def __repr__(self) -> str:
        samples = f"{_dimensions(self.samples_TN.shape)} samples at {self.sample_rate_hz} Hz"
        return f"AudioWindows({samples}{_interval(self.centres_seconds_T)})"


@dataclass(frozen=True, repr=False)
class Clip:
    """A decoded segment of a video, with its frames, its sound, or both.

    Attributes:
        id: `path#start-end`, unique in a data set; see `cmmixer.data.manifest.clip_id`.
        source: the video it was cut from. Data splits keep all clips of a source together.
        label: class name, if there is one.
        span: where it lies in the video.
        frames: None if only the sound was decoded.
        sound: None if only the frames were decoded.

    Raises:
        ValueError: both `frames` and `sound` are None.
    """

    id: str
    source: str
    label: str | None
    span: Span
    frames: Frames | None
    sound: AudioWindows | None

    def __post_init__(self) -> None:
        if self.frames is None and self.sound is None:
            raise ValueError(f"clip {self.id} has neither frames nor sound")

    def __repr__(self) -> str:
        span = f"{self.span.start_seconds:g}..{self.span.end_seconds:g} s"
        return f"Clip({self.id!r}, {span}, label={self.label!r}, frames={self.frames!r}, sound={self.sound!r})"


@dataclass(repr=False)
class Batch:
    """Clips stacked for the device.

    Attributes:
        ids: clip ids, length B.
        labels: class names or None, length B.
        video_BTCHW: uint8 frames, C = 3.
        audio_BTN: int16 PCM windows.
    """

    ids: list[str]
    labels: list[str | None]
    video_BTCHW: Tensor
    audio_BTN: Tensor

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        video, audio = _dimensions(self.video_BTCHW.shape), _dimensions(self.audio_BTN.shape)
        return f"Batch({len(self)} clips, video {video}, audio {audio}, {self.video_BTCHW.device})"

    def to(self, device: object) -> Batch:
        """Returns the batch with its tensors on `device`."""
        return Batch(
            self.ids,
            self.labels,
            self.video_BTCHW.to(device, non_blocking=True),  # type: ignore[call-overload]
            self.audio_BTN.to(device, non_blocking=True),  # type: ignore[call-overload]
        )

    def pin_memory(self) -> Batch:
        """Returns the batch in pinned memory. Called by torch's DataLoader when `pin_memory=True`."""
        return Batch(self.ids, self.labels, self.video_BTCHW.pin_memory(), self.audio_BTN.pin_memory())


@dataclass(frozen=True)
class Statistics:
    """Means and standard deviations that normalize frames and mel spectrograms, measured on the training clips.

    A run stores them in its metadata.

    Attributes:
        frame_mean, frame_std: per color channel, of pixels scaled to [0, 1].
        mel_mean, mel_std: of the log-mel spectrograms, in decibels.
        clips: number of clips they were measured on.
    """

    frame_mean: tuple[float, float, float]
    frame_std: tuple[float, float, float]
    mel_mean: float
    mel_std: float
    clips: int


def _dimensions(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _interval(times_seconds_T: NDArray[np.float64]) -> str:
    """The first and the last instant, as the end of a repr; nothing if there are none."""
    if len(times_seconds_T) == 0:
        return ""
    return f", {times_seconds_T[0]:g}..{times_seconds_T[-1]:g} s"
