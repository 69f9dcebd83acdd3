"""The mel spectrogram of one audio window by the definition: loops, no framing, no matrix products."""

from __future__ import annotations

import cmath
import math


def hz_of_mel(mel: float) -> float:
    """Slaney's scale: 200/3 Hz per mel up to 15 mel = 1 kHz, then a factor of 6.4 every 27 mel."""
    if mel < 15.0:
        return mel * 200.0 / 3.0
    return 1000.0 * math.exp((mel - 15.0) * math.log(6.4) / 27.0)


def mel_of_hz(hz: float) -> float:
    if hz < 1000.0:
        return hz * 3.0 / 200.0
    return 15.0 + math.log(hz / 1000.0) * 27.0 / math.log(6.4)


def mel_spectrogram(
    samples: list[float], sample_rate_hz: int, hop: int, fft: int, bands: int, columns: int
) -> list[list[float]]:
    """Decibels, [band][column]."""
    top_mel = mel_of_hz(sample_rate_hz / 2)
    edges = [hz_of_mel(top_mel * k / (bands + 1)) for k in range(bands + 2)]
    spectrogram = [[0.0] * columns for _ in range(bands)]
    for column in range(columns):
        block = []
        for k in range(fft):
            at = column * hop - fft // 2 + k
            sample = samples[at] if 0 <= at < len(samples) else 0.0
            block.append(sample * (0.5 - 0.5 * math.cos(2 * math.pi * k / fft)))
        power = []
        for f in range(fft // 2 + 1):
            total = sum(value * cmath.exp(-2j * math.pi * f * k / fft) for k, value in enumerate(block))
            power.append(abs(total) ** 2)
        for band in range(bands):
            low, center, high = edges[band], edges[band + 1], edges[band + 2]
            energy = 0.0
            for f, value in enumerate(power):
                hz = f * sample_rate_hz / fft
                if low < hz <= center:
                    energy += value * (hz - low) / (center - low) * 2 / (high - low)
                elif center < hz < high:
                    energy += value * (high - hz) / (high - center) * 2 / (high - low)
            spectrogram[band][column] = 10 * math.log10(max(energy, 1e-10))
    return spectrogram
