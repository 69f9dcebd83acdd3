"""Settings of clips and networks: sizes of the encoder, geometry of a clip, presets for both, and the moments of a video.

base, large and huge have the published sizes (arXiv 2308.13820 through MAE, arXiv 2111.06377, whose decoder has width 512;
the published code builds 256 x 4 for base, which is what base means here). small and tiny follow DeiT (arXiv 2012.12877).
nano is ours, for two CPU cores.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from cmmixer.config.base import at_least, one_of, within
from cmmixer.errors import SettingsError


@dataclass(frozen=True)
class ModelSettings:
    """Sizes of a network. A checkpoint's metadata holds them, so a run does not depend on what a preset means today.

    Attributes:
        dim, depth, heads: of the ViT encoder.
        decoder_dim, decoder_depth, decoder_heads: of the narrower decoder.
        patch: side of a patch in pixels.
    """

    dim: int
    depth: int
    heads: int
    decoder_dim: int
    decoder_depth: int
    decoder_heads: int
    patch: int


@dataclass(frozen=True)
class Preset:
    """A network and the clip geometry it is meant for.

    Attributes:
        model: sizes of the network.
        height, width: size of a frame and of a mel spectrogram in pixels.
        frames: frames of a clip, T.
        clip_seconds: length of a clip.
        window_seconds: length of the audio window of a frame.
        sample_rate_hz: rate the audio is resampled to.
    """

    model: ModelSettings
    height: int
    width: int
    frames: int
    clip_seconds: float
    window_seconds: float
    sample_rate_hz: int


def _published_geometry(model: ModelSettings) -> Preset:
    """224 x 224 pixels: a window of 2.6 s at 44.1 kHz with hop 512 has 224 mel columns."""
    return Preset(model, 224, 224, frames=4, clip_seconds=10.0, window_seconds=2.6, sample_rate_hz=44100)


def _small_geometry(model: ModelSettings, side: int) -> Preset:
    return Preset(model, side, side, frames=4, clip_seconds=4.0, window_seconds=1.0, sample_rate_hz=16000)


PRESETS: dict[str, Preset] = {
    "huge": _published_geometry(ModelSettings(1280, 32, 16, 512, 4, 16, patch=14)),
    "large": _published_geometry(ModelSettings(1024, 24, 16, 512, 4, 16, patch=16)),
    "base": _published_geometry(ModelSettings(768, 12, 12, 256, 4, 16, patch=16)),
    "small": _published_geometry(ModelSettings(384, 12, 6, 256, 4, 8, patch=16)),
    "tiny": _small_geometry(ModelSettings(192, 12, 3, 128, 2, 4, patch=16), 112),
    "nano": _small_geometry(ModelSettings(128, 4, 4, 96, 2, 4, patch=16), 64),
}


def preset(name: str) -> Preset:
    """Returns the preset of this name.

    Raises:
        SettingsError: there is no such preset; the message names the nearest one.
    """
    one_of("preset", name, PRESETS)
    return PRESETS[name]


@dataclass(frozen=True, kw_only=True)
class ClipSettings:
    """Geometry of a clip, with all values known. An encoder and a clip store fit together only if theirs are equal.

    Attributes:
        frames: T, frames of a clip, taken at the centers of T equal parts of the clip.
        height: H, rows of a frame and mel bands of a mel spectrogram.
        width: W, columns of a frame and time steps of a mel spectrogram.
        clip_seconds: length of a clip.
        window_seconds: length of the audio window centered on each frame.
        sample_rate_hz: rate the audio is resampled to.
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
                f"too few for {self.width} columns; give a longer --window_seconds or a smaller --width"
            )

    @property
    def window_samples(self) -> int:
        """N, samples of an audio window. Published: 2.6 s x 44,100 Hz = 114,660."""
        return round(self.window_seconds * self.sample_rate_hz)


@dataclass(frozen=True, kw_only=True)
class ClipOptions:
    """Geometry of a clip as a user gives it; missing values come from the preset.

    Attributes:
        frames: frames of a clip; default: the preset's
        height: height of a frame in pixels, and mel bands; default: the preset's
        width: width of a frame in pixels, and mel columns; default: the preset's
        clip_seconds: length of a clip in seconds; default: the preset's
        window_seconds: length of the audio window of each frame in seconds; default: the preset's
        sample_rate_hz: rate in Hz the audio is resampled to; default: the preset's
    """

    frames: int | None = None
    height: int | None = None
    width: int | None = None
    clip_seconds: float | None = None
    window_seconds: float | None = None
    sample_rate_hz: int | None = None

    def clip_settings(self, preset_name: str) -> ClipSettings:
        """Completes these options from a preset.

        Raises:
            SettingsError: the preset is unknown or a value is impossible.
        """
        base = preset(preset_name)
        values = {}
        for field in dataclasses.fields(ClipSettings):
            given = getattr(self, field.name)
            values[field.name] = getattr(base, field.name) if given is None else given
        return ClipSettings(**values)


@dataclass(frozen=True, kw_only=True)
class SegmentSettings:
    """How videos are cut into moments.

    Attributes:
        moment_seconds: length of a moment in seconds, at the frame rate of the model's clips; default: the model's clip length
        stride_seconds: seconds between the starts of two moments; default: half a moment
        shots: end moments at shot boundaries, and start the next one with the new shot
    """

    moment_seconds: float | None = None
    stride_seconds: float | None = None
    shots: bool = False

    def __post_init__(self) -> None:
        for name in ("moment_seconds", "stride_seconds"):
            value = getattr(self, name)
            if value is not None:
                within(name, value, 0.0, float("inf"), open_low=True, open_high=True)

    def complete(self, clip: ClipSettings) -> SegmentSettings:
        """Returns the settings with all values known, for a model with this clip geometry."""
        moment = clip.clip_seconds if self.moment_seconds is None else self.moment_seconds
        return SegmentSettings(
            moment_seconds=moment,
            stride_seconds=moment / 2 if self.stride_seconds is None else self.stride_seconds,
            shots=self.shots,
        )

    def moment_clip(self, clip: ClipSettings) -> ClipSettings:
        """Returns the geometry of a moment. A longer or shorter one has more or fewer frames, at the interval the model learned."""
        if self.moment_seconds is None or self.moment_seconds == clip.clip_seconds:
            return clip
        frames = max(1, round(clip.frames * self.moment_seconds / clip.clip_seconds))
        return dataclasses.replace(clip, frames=frames, clip_seconds=self.moment_seconds)
