"""Cross-clip frame mixup by its formula, frame by frame."""

from __future__ import annotations

import torch
from torch import Tensor


def mixed(frames: Tensor, rows: list[list[int]]) -> Tensor:
    """Frame t of clip b is frame t of clip rows[b][t]."""
    clips = []
    for row in rows:
        clips.append(torch.stack([frames[source][time] for time, source in enumerate(row)]))
    return torch.stack(clips)
