"""Sound windows -> mel pictures of exactly H bands and W columns, in decibels.

Letters: B clips, T windows of a clip, N samples of a window, F frequency bins, H mel bands, W columns.

The order of the arithmetic, with the published geometry (2.6 s at 44,100 Hz, 224 x 224) beside it:

    N    = window_seconds x sample_rate_hz                          114,660
    hop  = N // W + 1, the only step that can give W columns            512
    W    = 1 + N // hop, windows centred on every hop-th sample         224
    fft  = smallest power of two >= 4 x hop with no empty band        2,048

Mel pictures back to sound, to be listened to: what a picture keeps of a sound, and nothing more.

    power = 10 ^ (dB / 10);  spectrum = argmin_{S >= 0} |filters S - power|^2;  sound = Griffin-Lim(sqrt(spectrum))

Griffin and Lim 1984, "Signal estimation from modified short-time Fourier transform"; both steps by librosa.

Letters: M pictures, H mel bands, W columns, N samples of a window.
"""

from __future__ import annotations

from dataclasses import dataclass

import librosa
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

# Power below this counts as this: -100 dB, where a full-scale sample is 1.
_FLOOR_POWER = 1e-10

# Doubling beyond this helps nothing: such a geometry asks for more bands than the sound has frequencies.
_LONGEST_FFT = 1 << 17


@dataclass(frozen=True)
class MelGeometry:
    """Everything a mel picture follows from.

    Attributes:
        hop_samples: distance between two columns.
        fft_samples: length of the Hann window and of the Fourier transform.
        bands: mel bands, H.
        columns: columns, W.
    """

    hop_samples: int
    fft_samples: int
    bands: int
    columns: int


def mel_geometry(clip: ClipSettings) -> MelGeometry:
    """Derives hop and Fourier length so that a window becomes exactly H x W.

    Raises:
        SettingsError: no hop gives W columns, or H bands are more than the sound can fill.
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
        if fft > _LONGEST_FFT:
            raise SettingsError(
                f"--height: {clip.height} mel bands are too many for sound at {clip.sample_rate_hz} Hz; "
                "give a lower --height or a higher --sample_rate_hz"
            )
    return MelGeometry(hop, fft, clip.height, columns)


def mel_filters(sample_rate_hz: int, fft_samples: int, bands: int) -> NDArray[np.float64]:
    """Triangular filters, evenly spaced in mel from 0 to half the sample rate, each of area 1 in hertz.

    Returns:
        float64 (bands, 1 + fft_samples // 2); row 0 is the lowest band.
    """
    bins_hz = np.linspace(0.0, sample_rate_hz / 2, 1 + fft_samples // 2)
    edges_hz = _edges_hz(sample_rate_hz, bands)
    low, centre, high = edges_hz[:-2, None], edges_hz[1:-1, None], edges_hz[2:, None]
    triangles = np.minimum((bins_hz - low) / (centre - low), (high - bins_hz) / (high - centre))
    return np.asarray(np.maximum(0.0, triangles) * (2.0 / (high - low)), dtype=np.float64)


def _edges_hz(sample_rate_hz: int, bands: int) -> NDArray[np.float64]:
    """Feet and tops of the triangles: band k rises from edge k to edge k + 1 and falls to edge k + 2."""
    return _mel_to_hz(np.linspace(0.0, _hz_to_mel(sample_rate_hz / 2), bands + 2))


def _some_band_is_empty(sample_rate_hz: int, fft_samples: int, bands: int) -> bool:
    """Is there a triangle with no frequency bin strictly inside? Asked without building the filters."""
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


# A processor keeps the spectra of so many windows in its caches: 0.049 s instead of 0.167 s for 256 windows of 1 s, the same bits.
_WINDOWS_AT_ONCE = 32


class MelPictures(nn.Module):
    """Sound windows -> log-mel pictures; no parameters, so nothing of it is kept in a checkpoint.

    Args:
        clip: geometry of the windows and pictures.

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
        """Mel pictures in decibels, 10 log10(max(power, 1e-10)).

        Args:
            audio_BTN: int16 samples, or floats with full scale 1.

        Returns:
            float32 (B, T, 1, H, W); row 0 is the lowest band.

        Raises:
            ValueError: windows of another length than the geometry was made for.
        """
        clips, windows, samples = audio_BTN.shape
        if 1 + samples // self.geometry.hop_samples != self.geometry.columns:
            raise ValueError(f"windows of {samples} samples do not make {self.geometry.columns} columns")
        # Half precision has neither the range nor the Fourier transform for this.
        with torch.autocast(audio_BTN.device.type, enabled=False):
            sound_MN = as_float(audio_BTN).reshape(clips * windows, samples)
            # An exported graph has no loop over a number of parts that it does not know.
            in_parts = audio_BTN.device.type == "cpu" and not torch.compiler.is_compiling()
            parts = torch.split(sound_MN, _WINDOWS_AT_ONCE) if in_parts else (sound_MN,)
            bands = torch.cat([torch.matmul(self.filters_HF, self._power(part)) for part in parts])
            decibels = 10.0 * torch.log10(bands.clamp_min(_FLOOR_POWER))
        return decibels.reshape(clips, windows, 1, self.geometry.bands, self.geometry.columns)

    def _power(self, sound_MN: Tensor) -> Tensor:
        """Power spectrogram (M, F, W); windows are centred on multiples of the hop and see zeros outside the sound."""
        spectrum = torch.stft(
            sound_MN,
            n_fft=self.geometry.fft_samples,
            hop_length=self.geometry.hop_samples,
            window=self.hann_F,
            center=True,
            pad_mode="constant",
            return_complex=True,
        )
        return spectrum.real.square() + spectrum.imag.square()


def as_float(audio: Tensor) -> Tensor:
    """Samples as float32 with full scale 1; int16 is divided by 32,768."""
    return audio.float() / 32768.0 if audio.dtype == torch.int16 else audio.float()


STEPS = 32

# Seeds the phases Griffin-Lim starts from, so that the same picture gives the same sound.
_SEED = 0


def sound_of_mel(decibels_MHW: NDArray[np.floating], clip: ClipSettings, *, steps: int = STEPS) -> NDArray[np.float32]:
    """Sounds whose mel pictures are about these.

    Args:
        decibels_MHW: mel pictures as `MelPictures` makes them, row 0 the lowest band.
        clip: geometry they were made with.
        steps: iterations of Griffin-Lim.

    Returns:
        float32 [M, N], full scale 1.

    Raises:
        ValueError: pictures of another size than the geometry's.
    """
    pictures = np.asarray(decibels_MHW, dtype=np.float64)
    if pictures.ndim != 3 or pictures.shape[1:] != (clip.height, clip.width):
        raise ValueError(f"mel pictures must be [M, {clip.height}, {clip.width}]; got {pictures.shape}")
    geometry = mel_geometry(clip)
    filters = mel_filters(clip.sample_rate_hz, geometry.fft_samples, clip.height)
    sounds = np.zeros((len(pictures), clip.window_samples), np.float32)
    for place, decibels_HW in enumerate(pictures):
        spectrum_FW = librosa.util.nnls(filters, 10.0 ** (decibels_HW / 10.0))
        sounds[place] = librosa.griffinlim(
            np.sqrt(spectrum_FW),
            n_iter=steps,
            hop_length=geometry.hop_samples,
            n_fft=geometry.fft_samples,
            window="hann",
            center=True,
            pad_mode="constant",
            length=clip.window_samples,
            random_state=_SEED,
        )
    return sounds
