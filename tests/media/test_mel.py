"""Mel pictures against librosa, against plain loops, and against what one hears."""

from __future__ import annotations

import librosa
import numpy as np
import pytest
import torch

from cmmixer.config import PRESETS, ClipSettings
from cmmixer.errors import SettingsError
from cmmixer.media.mel import MelGeometry, MelPictures, mel_filters, mel_geometry
from tests.reference.mel_slow import mel_picture


def geometry_of(
    frames: int = 2, height: int = 64, width: int = 64, window_seconds: float = 1.0, sample_rate_hz: int = 16000
) -> ClipSettings:
    return ClipSettings(
        frames=frames,
        height=height,
        width=width,
        clip_seconds=4.0,
        window_seconds=window_seconds,
        sample_rate_hz=sample_rate_hz,
    )


PUBLISHED = geometry_of(1, 224, 224, 2.6, 44100)
GEOMETRIES = [
    PUBLISHED,
    geometry_of(),
    geometry_of(3, 112, 112),
    geometry_of(1, 40, 100, 0.7, 22050),
    geometry_of(1, 64, 96, 2.0, 8000),
]


def test_published_geometry_is_derived() -> None:
    assert mel_geometry(PUBLISHED) == MelGeometry(hop_samples=512, fft_samples=2048, bands=224, columns=224)


def test_small_geometry_is_derived() -> None:
    assert mel_geometry(geometry_of()) == MelGeometry(hop_samples=251, fft_samples=1024, bands=64, columns=64)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_has_a_geometry(name: str) -> None:
    base = PRESETS[name]
    clip = geometry_of(base.frames, base.height, base.width, base.window_seconds, base.sample_rate_hz)
    geometry = mel_geometry(clip)
    assert 1 + clip.window_samples // geometry.hop_samples == base.width
    assert mel_filters(base.sample_rate_hz, geometry.fft_samples, base.height).any(axis=1).all()


@pytest.mark.parametrize("clip", GEOMETRIES, ids=lambda clip: f"{clip.height}x{clip.width}@{clip.sample_rate_hz}")
def test_same_as_librosa(clip: ClipSettings) -> None:
    rng = np.random.default_rng(1)
    audio_BTN = rng.normal(0, 3000, (2, clip.frames, clip.window_samples)).astype(np.int16)
    pictures = MelPictures(clip)
    ours = pictures(torch.from_numpy(audio_BTN))
    assert ours.shape == (2, clip.frames, 1, clip.height, clip.width)
    assert ours.dtype == torch.float32
    power = librosa.feature.melspectrogram(
        y=audio_BTN.astype(np.float32) / 32768.0,
        sr=clip.sample_rate_hz,
        n_fft=pictures.geometry.fft_samples,
        hop_length=pictures.geometry.hop_samples,
        n_mels=clip.height,
        center=True,
        pad_mode="constant",
        power=2.0,
    )
    theirs = 10.0 * np.log10(np.maximum(power, 1e-10))
    np.testing.assert_allclose(ours[:, :, 0].numpy(), theirs, atol=2e-3)


@pytest.mark.parametrize("clip", GEOMETRIES, ids=lambda clip: f"{clip.height}x{clip.width}@{clip.sample_rate_hz}")
def test_filters_are_those_of_librosa(clip: ClipSettings) -> None:
    fft = mel_geometry(clip).fft_samples
    theirs = librosa.filters.mel(sr=clip.sample_rate_hz, n_fft=fft, n_mels=clip.height, dtype=np.float64)
    np.testing.assert_allclose(mel_filters(clip.sample_rate_hz, fft, clip.height), theirs, atol=1e-12)


def test_same_as_plain_loops() -> None:
    clip = geometry_of(1, 6, 5, 0.03, 2000)
    samples = np.random.default_rng(2).normal(0, 0.1, clip.window_samples).astype(np.float32)
    pictures = MelPictures(clip)
    slow = mel_picture(
        samples.tolist(), 2000, pictures.geometry.hop_samples, pictures.geometry.fft_samples, clip.height, clip.width
    )
    np.testing.assert_allclose(pictures(torch.from_numpy(samples)[None, None])[0, 0, 0].numpy(), slow, atol=1e-3)


def test_low_tone_is_in_a_low_row() -> None:
    clip = geometry_of(2)
    seconds = np.arange(clip.window_samples) / clip.sample_rate_hz
    tones = np.stack([10000 * np.sin(2 * np.pi * hz * seconds) for hz in (300.0, 4000.0)]).astype(np.int16)
    brightest = MelPictures(clip)(torch.from_numpy(tones)[None])[0, :, 0].mean(dim=2).argmax(dim=1)
    centres = librosa.mel_frequencies(n_mels=66, fmin=0, fmax=8000)[1:-1]
    assert abs(centres[brightest[0]] - 300.0) < 50
    assert abs(centres[brightest[1]] - 4000.0) < 200


def test_digital_silence_is_the_floor_and_integers_equal_floats() -> None:
    clip = geometry_of(1)
    pictures = MelPictures(clip)
    assert torch.equal(pictures(torch.zeros(1, 1, 16000, dtype=torch.int16)), torch.full((1, 1, 1, 64, 64), -100.0))
    whole = torch.randint(-3000, 3000, (1, 1, 16000), dtype=torch.int16)
    assert torch.equal(pictures(whole), pictures(whole.float() / 32768))


def test_an_impact_is_in_its_column() -> None:
    clip = geometry_of(1)
    audio = torch.zeros(1, 1, 16000, dtype=torch.int16)
    audio[0, 0, 32 * 251] = 30000
    assert int(MelPictures(clip)(audio)[0, 0, 0].mean(dim=0).argmax()) == 32


def test_half_precision_regions_change_nothing() -> None:
    clip = geometry_of(1)
    audio = torch.randint(-3000, 3000, (1, 1, 16000), dtype=torch.int16)
    pictures = MelPictures(clip)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = pictures(audio)
    assert torch.equal(half, pictures(audio))


def test_the_fourier_length_is_doubled_until_no_band_is_empty() -> None:
    clip = geometry_of(1, 400, 64)
    fft = mel_geometry(clip).fft_samples
    assert fft == 2048
    assert not mel_filters(16000, fft // 2, 400).any(axis=1).all()
    assert mel_filters(16000, fft, 400).any(axis=1).all()


def test_nothing_is_kept_in_a_checkpoint() -> None:
    assert MelPictures(geometry_of()).state_dict() == {}


def test_an_impossible_width_says_what_to_change() -> None:
    with pytest.raises(
        SettingsError, match=r"--width: no hop cuts 680 samples .* 64 columns; --window_seconds 2.02 or more"
    ):
        mel_geometry(geometry_of(1, 64, 64, 0.34, 2000))


def test_too_many_bands_say_what_to_change() -> None:
    with pytest.raises(SettingsError, match=r"--height: 100000 mel bands are too many for sound at 16000 Hz"):
        mel_geometry(geometry_of(1, 100000, 64))


def test_windows_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match="windows of 8000 samples do not make 64 columns"):
        MelPictures(geometry_of())(torch.zeros(1, 1, 8000, dtype=torch.int16))
