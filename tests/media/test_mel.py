"""Mel spectrograms against librosa and plain loops, and their inversion."""

from __future__ import annotations

import librosa
import numpy as np
import pytest
import torch

from cmmixer.config import PRESETS, ClipSettings
from cmmixer.errors import SettingsError
from cmmixer.media.mel import MelGeometry, MelSpectrogram, as_float, invert_mel, mel_filters, mel_geometry
from tests.reference.mel_slow import mel_spectrogram


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
def test_mel_spectrogram_equals_librosa(clip: ClipSettings) -> None:
    rng = np.random.default_rng(1)
    audio_BTN = rng.normal(0, 3000, (2, clip.frames, clip.window_samples)).astype(np.int16)
    mel = MelSpectrogram(clip)
    ours = mel(torch.from_numpy(audio_BTN))
    assert ours.shape == (2, clip.frames, 1, clip.height, clip.width)
    assert ours.dtype == torch.float32
    power = librosa.feature.melspectrogram(
        y=audio_BTN.astype(np.float32) / 32768.0,
        sr=clip.sample_rate_hz,
        n_fft=mel.geometry.fft_samples,
        hop_length=mel.geometry.hop_samples,
        n_mels=clip.height,
        center=True,
        pad_mode="constant",
        power=2.0,
    )
    theirs = 10.0 * np.log10(np.maximum(power, 1e-10))
    np.testing.assert_allclose(ours[:, :, 0].numpy(), theirs, atol=2e-3)


@pytest.mark.parametrize("clip", GEOMETRIES, ids=lambda clip: f"{clip.height}x{clip.width}@{clip.sample_rate_hz}")
def test_filters_equal_librosa(clip: ClipSettings) -> None:
    fft = mel_geometry(clip).fft_samples
    theirs = librosa.filters.mel(sr=clip.sample_rate_hz, n_fft=fft, n_mels=clip.height, dtype=np.float64)
    np.testing.assert_allclose(mel_filters(clip.sample_rate_hz, fft, clip.height), theirs, atol=1e-12)


def test_mel_spectrogram_equals_plain_loops() -> None:
    clip = geometry_of(1, 6, 5, 0.03, 2000)
    samples = np.random.default_rng(2).normal(0, 0.1, clip.window_samples).astype(np.float32)
    mel = MelSpectrogram(clip)
    slow = mel_spectrogram(
        samples.tolist(), 2000, mel.geometry.hop_samples, mel.geometry.fft_samples, clip.height, clip.width
    )
    np.testing.assert_allclose(mel(torch.from_numpy(samples)[None, None])[0, 0, 0].numpy(), slow, atol=1e-3)


def test_low_tone_is_in_a_low_row() -> None:
    clip = geometry_of(2)
    seconds = np.arange(clip.window_samples) / clip.sample_rate_hz
    tones = np.stack([10000 * np.sin(2 * np.pi * hz * seconds) for hz in (300.0, 4000.0)]).astype(np.int16)
    brightest = MelSpectrogram(clip)(torch.from_numpy(tones)[None])[0, :, 0].mean(dim=2).argmax(dim=1)
    centers = librosa.mel_frequencies(n_mels=66, fmin=0, fmax=8000)[1:-1]
    assert abs(centers[brightest[0]] - 300.0) < 50
    assert abs(centers[brightest[1]] - 4000.0) < 200


def test_silence_is_the_minimum_and_integers_equal_floats() -> None:
    clip = geometry_of(1)
    mel = MelSpectrogram(clip)
    assert torch.equal(mel(torch.zeros(1, 1, 16000, dtype=torch.int16)), torch.full((1, 1, 1, 64, 64), -100.0))
    whole = torch.randint(-3000, 3000, (1, 1, 16000), dtype=torch.int16)
    assert torch.equal(mel(whole), mel(whole.float() / 32768))


def test_a_click_is_in_its_column() -> None:
    clip = geometry_of(1)
    audio = torch.zeros(1, 1, 16000, dtype=torch.int16)
    audio[0, 0, 32 * 251] = 30000
    assert int(MelSpectrogram(clip)(audio)[0, 0, 0].mean(dim=0).argmax()) == 32


def test_autocast_changes_nothing() -> None:
    clip = geometry_of(1)
    audio = torch.randint(-3000, 3000, (1, 1, 16000), dtype=torch.int16)
    mel = MelSpectrogram(clip)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = mel(audio)
    assert torch.equal(half, mel(audio))


def test_transform_length_doubles_until_no_band_is_empty() -> None:
    clip = geometry_of(1, 400, 64)
    fft = mel_geometry(clip).fft_samples
    assert fft == 2048
    assert not mel_filters(16000, fft // 2, 400).any(axis=1).all()
    assert mel_filters(16000, fft, 400).any(axis=1).all()


def test_mel_spectrogram_has_no_state() -> None:
    assert MelSpectrogram(geometry_of()).state_dict() == {}


def test_an_impossible_width_is_refused_with_advice() -> None:
    with pytest.raises(
        SettingsError, match=r"--width: no hop cuts 680 samples .* 64 columns; --window_seconds 2.02 or more"
    ):
        mel_geometry(geometry_of(1, 64, 64, 0.34, 2000))


def test_too_many_bands_are_refused_with_advice() -> None:
    with pytest.raises(SettingsError, match=r"--height: 100000 mel bands are too many for audio at 16000 Hz"):
        mel_geometry(geometry_of(1, 100000, 64))


def test_windows_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match="windows of 8000 samples do not make 64 columns"):
        MelSpectrogram(geometry_of())(torch.zeros(1, 1, 8000, dtype=torch.int16))


def test_filters_have_an_area_of_one_hertz() -> None:
    filters = mel_filters(16000, 4096, 40)
    areas = filters.sum(axis=1) * (16000 / 4096)
    np.testing.assert_allclose(areas, 1.0, rtol=0.02)
    assert (filters >= 0).all()
    assert (np.diff(filters.argmax(axis=1)) > 0).all()


def test_the_scale_is_linear_below_1000_hz_and_logarithmic_above() -> None:
    centers_hz = mel_filters(16000, 1 << 14, 60).argmax(axis=1) * (16000 / (1 << 14))
    low, high = centers_hz[centers_hz < 900], centers_hz[centers_hz > 1100]
    np.testing.assert_allclose(np.diff(low), np.diff(low)[0], atol=2.0)
    np.testing.assert_allclose(high[1:] / high[:-1], (high[-1] / high[0]) ** (1 / (len(high) - 1)), rtol=5e-3)


def test_chunks_of_windows_change_nothing() -> None:
    clip = geometry_of(1, 32, 32, 0.5, 8000)
    mel = MelSpectrogram(clip)
    audio = torch.randint(-3000, 3000, (70, 1, 4000), dtype=torch.int16, generator=torch.Generator().manual_seed(0))
    together = mel(audio)
    assert torch.equal(together, torch.cat([mel(window) for window in audio.split(1)]))


def test_ten_times_the_amplitude_is_20_decibels_more() -> None:
    mel = MelSpectrogram(geometry_of(1, 32, 32, 0.5, 8000))
    audio = 0.01 * torch.randn(1, 1, 4000, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(mel(10 * audio), mel(audio) + 20, atol=1e-3, rtol=0)


def test_as_float() -> None:
    assert as_float(torch.tensor([-32768, 0, 16384], dtype=torch.int16)).tolist() == [-1.0, 0.0, 0.5]
    assert as_float(torch.tensor([0.25], dtype=torch.float64)).dtype == torch.float32
    assert as_float(torch.tensor([0.25], dtype=torch.float64)).tolist() == [0.25]


def test_inverted_audio_has_nearly_the_same_spectrogram() -> None:
    clip = geometry_of(1, 32, 32, 0.25, 8000)
    mel = MelSpectrogram(clip)
    seconds = torch.arange(clip.window_samples) / clip.sample_rate_hz
    tone = (0.3 * torch.sin(2 * torch.pi * 500 * seconds))[None, None]
    decibels = mel(tone)[0, :, 0].numpy()
    audio = invert_mel(decibels, clip, steps=8)
    assert audio.shape == (1, clip.window_samples)
    assert audio.dtype == np.float32
    again = mel(torch.from_numpy(audio)[None])[0, :, 0].numpy()
    loud = decibels > decibels.max() - 20
    assert np.abs(again - decibels)[loud].mean() < 2.0
    spectrum = np.abs(np.fft.rfft(audio[0]))
    assert spectrum.argmax() * clip.sample_rate_hz / clip.window_samples == pytest.approx(500, abs=20)  # half a band


def test_inversion_is_deterministic_and_independent_of_other_windows() -> None:
    clip = geometry_of(1, 16, 16, 0.1, 4000)
    decibels = np.random.default_rng(0).uniform(-60, -20, (2, 16, 16))
    both = invert_mel(decibels, clip, steps=2)
    np.testing.assert_array_equal(invert_mel(decibels, clip, steps=2), both)
    np.testing.assert_array_equal(invert_mel(decibels[1:], clip, steps=2), both[1:])


@pytest.mark.parametrize("shape", [(16, 16), (1, 16, 15), (1, 8, 16)])
def test_inversion_refuses_other_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"^mel spectrograms must be \(M, 16, 16\); got \("):
        invert_mel(np.zeros(shape), geometry_of(1, 16, 16, 0.1, 4000))
