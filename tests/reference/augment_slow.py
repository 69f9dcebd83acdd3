"""The augmentations by their definitions, pixel by pixel and sample by sample."""

from __future__ import annotations

import math

import numpy as np


def crop_and_resize(video_BTCHW: np.ndarray, box_B4: np.ndarray) -> np.ndarray:
    """Bilinear: output pixel (y, x) samples the point of the box that its centre stands for."""
    batch, _, _, height, width = video_BTCHW.shape
    result = np.zeros_like(video_BTCHW)
    for b in range(batch):
        top, left, tall, wide = box_B4[b]
        for y in range(height):
            for x in range(width):
                # In pixels; a pixel's centre lies half a pixel inside.
                down = (top + tall * (y + 0.5) / height) * height - 0.5
                right = (left + wide * (x + 0.5) / width) * width - 0.5
                down, right = min(max(down, 0.0), height - 1.0), min(max(right, 0.0), width - 1.0)
                y0, x0 = math.floor(down), math.floor(right)
                y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
                fy, fx = down - y0, right - x0
                frames = video_BTCHW[b]
                upper = frames[:, :, y0, x0] * (1 - fx) + frames[:, :, y0, x1] * fx
                lower = frames[:, :, y1, x0] * (1 - fx) + frames[:, :, y1, x1] * fx
                result[b, :, :, y, x] = upper * (1 - fy) + lower * fy
    return result


def erase(video_BTCHW: np.ndarray, box_B4: np.ndarray, colour_B3: np.ndarray) -> np.ndarray:
    result = video_BTCHW.copy()
    batch, frames, channels, height, width = video_BTCHW.shape
    for b in range(batch):
        top, left, tall, wide = box_B4[b]
        for t in range(frames):
            for c in range(channels):
                for y in range(height):
                    for x in range(width):
                        inside_y = top <= (y + 0.5) / height < top + tall
                        inside_x = left <= (x + 0.5) / width < left + wide
                        if inside_y and inside_x:
                            result[b, t, c, y, x] = colour_B3[b, c]
    return result


def shift_and_gain(audio_BTN: np.ndarray, shift_B: np.ndarray, gain_B: np.ndarray) -> np.ndarray:
    """int16 in, floats of full scale 1 out."""
    result = np.zeros(audio_BTN.shape)
    batch, windows, samples = audio_BTN.shape
    for b in range(batch):
        for t in range(windows):
            for n in range(samples):
                source = n - int(shift_B[b])
                if 0 <= source < samples:
                    loud = float(audio_BTN[b, t, source]) / 32768 * float(gain_B[b])
                    result[b, t, n] = min(max(loud, -1.0), 32767 / 32768)
    return result


def mask_mel(mel_BT1HW: np.ndarray, rows_B2: np.ndarray, columns_B2: np.ndarray) -> np.ndarray:
    result = mel_BT1HW.copy()
    batch, frames, _, height, width = mel_BT1HW.shape
    for b in range(batch):
        for t in range(frames):
            mean = mel_BT1HW[b, t].mean()
            for y in range(height):
                for x in range(width):
                    in_rows = rows_B2[b, 0] <= (y + 0.5) / height < rows_B2[b, 0] + rows_B2[b, 1]
                    in_columns = columns_B2[b, 0] <= (x + 0.5) / width < columns_B2[b, 0] + columns_B2[b, 1]
                    if in_rows or in_columns:
                        result[b, t, 0, y, x] = mean
    return result


def move(frame_CHW: np.ndarray, matrix_23: np.ndarray) -> np.ndarray:
    """The frame after each pixel (x, y) moved to `matrix @ (x, y, 1)`; bilinear, edges continue beyond the border."""
    _, height, width = frame_CHW.shape
    inverse = np.linalg.inv(np.vstack([matrix_23, [0, 0, 1]]))
    result = np.zeros_like(frame_CHW)
    for y in range(height):
        for x in range(width):
            right, down, _ = inverse @ np.array([x, y, 1.0])
            right, down = min(max(right, 0.0), width - 1.0), min(max(down, 0.0), height - 1.0)
            x0, y0 = math.floor(right), math.floor(down)
            x1, y1 = min(x0 + 1, width - 1), min(y0 + 1, height - 1)
            fx, fy = right - x0, down - y0
            upper = frame_CHW[:, y0, x0] * (1 - fx) + frame_CHW[:, y0, x1] * fx
            lower = frame_CHW[:, y1, x0] * (1 - fx) + frame_CHW[:, y1, x1] * fx
            result[:, y, x] = upper * (1 - fy) + lower * fy
    return result


def grey(frame_CHW: np.ndarray) -> np.ndarray:
    """ITU-R 601 luma."""
    return 0.299 * frame_CHW[0] + 0.587 * frame_CHW[1] + 0.114 * frame_CHW[2]
