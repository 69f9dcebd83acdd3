"""Strips, patches, positions and the masked loss by the definition, element by element."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def strip(frames_TCHW: NDArray[np.float64], interleave: bool) -> NDArray[np.float64]:
    """[T, C, H, W] -> [C, H, T * W]."""
    frames, channels, height, width = frames_TCHW.shape
    out = np.zeros((channels, height, frames * width))
    for t in range(frames):
        for c in range(channels):
            for y in range(height):
                for x in range(width):
                    column = x * frames + t if interleave else t * width + x
                    out[c, y, column] = frames_TCHW[t, c, y, x]
    return out


def patches(strip_CHS: NDArray[np.float64], patch: int) -> list[list[float]]:
    """[C, H, S] -> L lists of P numbers."""
    channels, height, width = strip_CHS.shape
    out = []
    for row in range(height // patch):
        for col in range(width // patch):
            numbers = []
            for c in range(channels):
                for i in range(patch):
                    for j in range(patch):
                        numbers.append(float(strip_CHS[c, row * patch + i, col * patch + j]))
            out.append(numbers)
    return out


def frame_parts(frames: int, width: int, rows: int, patch: int, interleave: bool) -> list[list[float]]:
    """[T][L]: the fraction of token l's columns that belongs to frame t."""
    cols = frames * width // patch
    out = [[0.0] * (rows * cols) for _ in range(frames)]
    for row in range(rows):
        for col in range(cols):
            for j in range(patch):
                column = col * patch + j
                frame = column % frames if interleave else column // width
                out[frame][row * cols + col] += 1.0 / patch
    return out


def positions(rows: int, cols: int, dim: int) -> list[list[float]]:
    """First half of the width from the column, second half from the row; sines, then cosines."""
    quarter = dim // 4
    out = []
    for row in range(rows):
        for col in range(cols):
            numbers = []
            for position in (col, row):
                angles = [position / 10000.0 ** (i / quarter) for i in range(quarter)]
                numbers += [math.sin(angle) for angle in angles]
                numbers += [math.cos(angle) for angle in angles]
            out.append(numbers)
    return out


def masked_loss(
    prediction: list[list[list[float]]], target: list[list[list[float]]], mask: list[list[float]], norm_pix: bool
) -> float:
    """The mean over all masked patches of all clips of a patch's mean squared error."""
    total, count = 0.0, 0
    for b in range(len(target)):
        for index, patch in enumerate(target[b]):
            if mask[b][index] == 0.0:
                continue
            if norm_pix:
                mean = sum(patch) / len(patch)
                std = math.sqrt(sum((x - mean) ** 2 for x in patch) / len(patch) + 1e-6)
                patch = [(x - mean) / std for x in patch]
            predicted = prediction[b][index]
            total += sum((x - y) ** 2 for x, y in zip(predicted, patch, strict=True)) / len(patch)
            count += 1
    return total / count
