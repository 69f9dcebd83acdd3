"""Mel spectrograms of exactly H bands and W columns, in decibels, and their inversion to audio.

The geometry follows from the settings in this order; on the right, the published one (2.6 s at 44,100 Hz, 224 x 224):

    N    = window_seconds x sample_rate_hz                          114,660
    hop  = N // W + 1, the only hop that can give W columns             512
    W    = 1 + N // hop, windows centered on every hop-th sample         224
    fft  = smallest power of two >= 4 x hop with no empty band        2,048

Letters: B clips, T windows of a clip, M windows of all clips, N samples of a window, F frequency bins, H mel bands, W columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cmmixer.config import ClipSettings
from cmmixer.errors import SettingsError

# Slaney's mel scale (Auditory Toolbox, 1998): linear up to 1 kHz, then 27 steps to every factor of 6.4.
_HZ_PER_LINEAR_MEL = 200.0 / 3.0
_BREAK_HZ = 1000.0
_BREAK_MEL = _BREAK_HZ / _HZ_PER_LINEAR_MEL
_LOG_STEP = np.log(6.4) / 27.0

# Lower power is clamped to this: -100 dB, where a full-scale sample is 1.
_MIN_POWER = 1e-10

# A longer transform does not help: such a geometry has more bands than the audio has frequencies.
_MAX_FFT_SAMPLES = 1 << 17

# The spectra of this many windows fit in a CPU's caches: 0.049 s instead of 0.167 s for 256 windows of 1 s, bit for bit the same.
_CHUNK_WINDOWS = 32

_GRIFFIN_LIM_STEPS = 32

# Seeds the initial phases of Griffin-Lim, so that the same spectrogram gives the same audio.
_GRIFFIN_LIM_SEED = 0


@dataclass(frozen=True)
class MelGeometry:
    """The parameters of a mel spectrogram.

    Attributes:
        hop_samples: distance between two columns.
        fft_samples: length of the Hann window and of the Fourier transform.
        bands: number of mel bands, H.
        columns: number of columns, W.
    """

    hop_samples: int
    fft_samples: int
    bands: int
    columns: int


def mel_geometry(clip: ClipSettings) -> MelGeometry:
    """Derives hop and transform length so that a window becomes exactly H x W.

    Raises:
        SettingsError: no hop gives W columns, or H bands are more than the audio can fill.
    """
    samples, columns = clip.window_samples, clip.width
    hop = samples // columns + 1
    if 1 + samples // hop != columns:
        enough = columns * (columns - 1) / clip.sample_rate_hz
        raise SettingsError(
            f"--width: no hop cuts {samples} samples ({clip.window_seconds} s at {clip.sample_rate_hz} Hz) into {columns} "
            f"columns; --window_seconds {enough:.3g} or more always works, or change --width to {1 + samples // hop}"
        )
    fft = 1 << (4 * hop - 1).bit_length()
    while _some_band_is_empty(clip.sample_rate_hz, fft, clip.height):
        fft *= 2
        if fft > _MAX_FFT_SAMPLES:
            raise SettingsError(
                f"--height: {clip.height} mel bands are too many for audio at {clip.sample_rate_hz} Hz; "
                "give a lower --height or a higher --sample_rate_hz"
            )
    return MelGeometry(hop, fft, clip.height, columns)


def mel_filters(sample_rate_hz: int, fft_samples: int, bands: int) -> NDArray[np.float64]:
    """Returns triangular filters, spaced evenly in mel from 0 to half the sample rate, each of area 1 in hertz.

    Returns:
        float64 (bands, 1 + fft_samples // 2); row 0 is the lowest band.
    """
    bins_hz = np.linspace(0.0, sample_rate_hz / 2, 1 + fft_samples // 2)
    edges_hz = _edges_hz(sample_rate_hz, bands)
    low, center, high = edges_hz[:-2, None], edges_hz[1:-1, None], edges_hz[2:, None]
    triangles = np.minimum((bins_hz - low) / (center - low), (high - bins_hz) / (high - center))
    return np.asarray(np.maximum(0.0, triangles) * (2.0 / (high - low)), dtype=np.float64)


def _edges_hz(sample_rate_hz: int, bands: int) -> NDArray[np.float64]:
    """Returns the corners of the triangles: band k rises from edge k to edge k + 1 and falls to edge k + 2."""
    return _mel_to_hz(np.linspace(0.0, _hz_to_mel(sample_rate_hz / 2), bands + 2))


def _some_band_is_empty(sample_rate_hz: int, fft_samples: int, bands: int) -> bool:
    """Whether some triangle has no frequency bin strictly inside; computed without building the filters."""
    edges_bins = _edges_hz(sample_rate_hz, bands) * (fft_samples / sample_rate_hz)
    return bool((np.floor(edges_bins[:-2]) + 1 >= edges_bins[2:]).any())


def _hz_to_mel(hz: float) -> float:
    if hz < _BREAK_HZ:
        return hz / _HZ_PER_LINEAR_MEL
    return _BREAK_MEL + float(np.log(hz / _BREAK_HZ) / _LOG_STEP)


def _mel_to_hz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(
        mel < _BREAK_MEL,
        mel * _HZ_PER_LINEAR_MEL,
        _BREAK_HZ * np.exp(_LOG_STEP * (np.maximum(mel, _BREAK_MEL) - _BREAK_MEL)),
    )


class MelSpectrogram(nn.Module):
    """Log-mel spectrograms of audio windows. Has no parameters, so nothing of it is saved in a checkpoint.

    Args:
        clip: geometry of the windows and spectrograms.

    Raises:
        SettingsError: see `mel_geometry`.
    """

    hann_F: Tensor
    filters_HF: Tensor

    def __init__(self, clip: ClipSettings) -> None:
        super().__init__()
        self.geometry = mel_geometry(clip)
        fft = self.geometry.fft_samples
        filters = mel_filters(clip.sample_rate_hz, fft, clip.height)
        self.register_buffer("hann_F", torch.hann_window(fft), persistent=False)
        self.register_buffer("filters_HF", torch.from_numpy(filters.astype(np.float32)), persistent=False)

    def forward(self, audio_BTN: Tensor) -> Tensor:
        """Computes mel spectrograms in decibels, 10 log10(max(power, 1e-10)).

        Args:
            audio_BTN: int16 samples, or floats with full scale 1.

        Returns:
            float32 (B, T, 1, H, W); row 0 is the lowest band.

        Raises:
            ValueError: the windows do not have the length that the geometry was derived from.
        """
        clips, windows, samples = audio_BTN.shape
        if 1 + samples // self.geometry.hop_samples != self.geometry.columns:
            raise ValueError(f"windows of {samples} samples do not make {self.geometry.columns} columns")
        # Half precision has neither the range nor the Fourier transform for this.
        with torch.autocast(audio_BTN.device.type, enabled=False):
            audio_MN = as_float(audio_BTN).reshape(clips * windows, samples)
            # An exported graph cannot loop over an unknown number of chunks.
            in_chunks = audio_BTN.device.type == "cpu" and not torch.compiler.is_compiling()
            chunks = torch.split(audio_MN, _CHUNK_WINDOWS) if in_chunks else (audio_MN,)
            bands_MHW = torch.cat([torch.matmul(self.filters_HF, self._power(chunk)) for chunk in chunks])
            decibels = 10.0 * torch.log10(bands_MHW.clamp_min(_MIN_POWER))
        return decibels.reshape(clips, windows, 1, self.geometry.bands, self.geometry.columns)

    def _power(self, audio_MN: Tensor) -> Tensor:
        """Computes the power spectrogram (M, F, W); frames are centered on multiples of the hop and padded with zeros."""
        spectrum = torch.stft(
            audio_MN,
            n_fft=self.geometry.fft_samples,
            hop_length=self.geometry.hop_samples,
            window=self.hann_F,
            center=True,
            pad_mode="constant",
            return_complex=True,
        )
        return spectrum.real.square() + spectrum.imag.square()


def as_float(audio: Tensor) -> Tensor:
    """Converts samples to float32 with full scale 1; int16 is divided by 32,768."""
    return audio.float() / 32768.0 if audio.dtype == torch.int16 else audio.float()


def invert_mel(
    decibels_MHW: NDArray[np.floating], clip: ClipSettings, *, steps: int = _GRIFFIN_LIM_STEPS
) -> NDArray[np.float32]:
    """Reconstructs audio whose mel spectrograms are close to the given ones, to hear what they preserve.

        power = 10 ^ (dB / 10);  spectrum = argmin_{S >= 0} |filters S - power|^2;  audio = Griffin-Lim(sqrt(spectrum))

    Griffin and Lim 1984, "Signal estimation from modified short-time Fourier transform"; both steps by librosa.

    Args:
        decibels_MHW: mel spectrograms from `MelSpectrogram`; row 0 is the lowest band.
        clip: their geometry.
        steps: iterations of Griffin-Lim.

    Returns:
        float32 (M, N), full scale 1.

    Raises:
        ValueError: the spectrograms do not have the size of the geometry.
    """
    import librosa  # of the extra `inspect`; everything else here works without it

    spectrograms = np.asarray(decibels_MHW, dtype=np.float64)
    if spectrograms.ndim != 3 or spectrograms.shape[1:] != (clip.height, clip.width):
        raise ValueError(f"mel spectrograms must be (M, {clip.height}, {clip.width}); got {spectrograms.shape}")
    geometry = mel_geometry(clip)
    filters = mel_filters(clip.sample_rate_hz, geometry.fft_samples, clip.height)
    audio_MN = np.zeros((len(spectrograms), clip.window_samples), np.float32)
    for index, decibels_HW in enumerate(spectrograms):
        spectrum_FW = librosa.util.nnls(filters, 10.0 ** (decibels_HW / 10.0))
        audio_MN[index] = librosa.griffinlim(
            np.sqrt(spectrum_FW),
            n_iter=steps,
            hop_length=geometry.hop_samples,
            n_fft=geometry.fft_samples,
            window="hann",
            center=True,
            pad_mode="constant",
            length=clip.window_samples,
            random_state=_GRIFFIN_LIM_SEED,
        )
    return audio_MN
