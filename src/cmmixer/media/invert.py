"""Mel pictures back to sound, to be listened to: what a picture keeps of a sound, and nothing more.

    power = 10 ^ (dB / 10);  spectrum = argmin_{S >= 0} |filters S - power|^2;  sound = Griffin-Lim(sqrt(spectrum))

Griffin and Lim 1984, "Signal estimation from modified short-time Fourier transform"; both steps by librosa.

Letters: M pictures, H mel bands, W columns, N samples of a window.
"""

from __future__ import annotations

import librosa
import numpy as np
from numpy.typing import NDArray

from cmmixer.config import ClipSettings
from cmmixer.media.mel import mel_filters, mel_geometry

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
