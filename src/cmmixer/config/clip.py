"""What a clip is: how many frames, how large, how long, and the sound window of each frame.

How films are cut into moments.

Sizes of the encoder, its decoder, and the picture geometry each was meant for.

base, large and huge are the published sizes (arXiv 2308.13820 through MAE, arXiv 2111.06377: decoder width 512; the
published code builds 256 x 4 for base, which is what we name it). small and tiny follow DeiT (arXiv 2012.12877). nano is
ours, for two CPU cores.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from cmmixer.config.base import at_least, one_of, within
from cmmixer.errors import SettingsError


@dataclass(frozen=True)
class ModelSettings:
    """Sizes of a network; kept in a checkpoint's card, so a run never depends on what a preset means today.

    Attributes:
        dim, depth, heads: the ViT encoder.
        decoder_dim, decoder_depth, decoder_heads: the narrow decoder.
        patch: patch side in pixels.
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
    """A network and the picture geometry that it was meant for.

    Attributes:
        model: sizes of the network.
        height, width: pixels of a frame and of a mel picture.
        frames: frames of a clip, T.
        clip_seconds: how long a clip is.
        window_seconds: how long the sound window of a frame is.
        sample_rate_hz: rate the sound is resampled to.
    """

    model: ModelSettings
    height: int
    width: int
    frames: int
    clip_seconds: float
    window_seconds: float
    sample_rate_hz: int


def _published_geometry(model: ModelSettings) -> Preset:
    """224 x 224 from 2.6 s at 44.1 kHz: hop 512 gives 224 columns."""
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
    """The preset of that name.

    Raises:
        SettingsError: no such preset; the message names the nearest one.
    """
    one_of("preset", name, PRESETS)
    return PRESETS[name]


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
