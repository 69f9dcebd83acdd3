"""Pair mixing by its formula, frame by frame."""

from __future__ import annotations

import torch
from torch import Tensor


def mixed(pictures: Tensor, rows: list[list[int]]) -> Tensor:
    clips = []
    for row in rows:
        clips.append(torch.stack([pictures[source][place] for place, source in enumerate(row)]))
    return torch.stack(clips)
