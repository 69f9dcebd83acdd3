"""The mixing mask by the definition, pixel by pixel, from the same draws."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cmmixer.models.mixer import CellDraw, RegionDraw


def mask_of_cells(draw: CellDraw) -> NDArray[np.float32]:
    clips, frames, rows, cols = draw.audio_cells_BTRK.shape
    mask = np.zeros((clips, frames, 1, rows * draw.cell, cols * draw.cell), dtype=np.float32)
    for b in range(clips):
        for t in range(frames):
            for y in range(rows * draw.cell):
                for x in range(cols * draw.cell):
                    if draw.mixed_B[b]:
                        from_audio = bool(draw.audio_cells_BTRK[b, t, y // draw.cell, x // draw.cell])
                    else:
                        from_audio = bool(draw.audio_base_B[b])
                    mask[b, t, 0, y, x] = 1.0 if from_audio else 0.0
    return mask


def mask_of_regions(draw: RegionDraw) -> NDArray[np.float32]:
    clips, draws = draw.lambda_BD.shape
    mask = np.zeros((clips, draw.frames, 1, draw.height, draw.width), dtype=np.float32)
    for b in range(clips):
        for t in range(draw.frames):
            d = t if draws == draw.frames else 0
            for y in range(draw.height):
                for x in range(draw.width):
                    if not draw.mixed_B[b]:
                        mask[b, t, 0, y, x] = float(draw.audio_base_BD[b, 0])
                        continue
                    if draw.cutmix_BD[b, d]:
                        in_rows = draw.top_BD[b, d] <= y < draw.bottom_BD[b, d]
                        in_cols = draw.left_BD[b, d] <= x < draw.right_BD[b, d]
                        other = 1.0 if in_rows and in_cols else 0.0
                    else:
                        other = 1.0 - float(draw.lambda_BD[b, d])
                    mask[b, t, 0, y, x] = 1.0 - other if draw.audio_base_BD[b, d] else other
    return mask
