"""Sizes of the encoder, its decoder, and the picture geometry each was meant for.

base, large and huge are the published sizes (arXiv 2308.13820 through MAE, arXiv 2111.06377: decoder width 512; the
published code builds 256 x 4 for base, which is what we name it). small and tiny follow DeiT (arXiv 2012.12877). nano is
ours, for two CPU cores.
"""

from __future__ import annotations

from dataclasses import dataclass

from cmmixer.config.check import one_of


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
