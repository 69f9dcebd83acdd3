"""Pair mixing: new pairs whose frames come from several clips, picture and sound alike, so that they still belong together.

    video'[b, t] = video[rows[b, t], t],  audio'[b, t] = audio[rows[b, t], t]

The cross-modal mixer lays a clip's picture and its sound over one another; this one lays clips over clips and keeps the
senses apart. A frame and the sound window centred on it stay together, so the new clip is a true pair; and it shares frames
with other clips of the batch, which are therefore hard to tell from it. Cutting clips together in time: T-VideoMix
(arXiv 2012.03457), there for one sense and its label; doing it to both senses and to every frame is ours. What it brings:
docs/study.md.

Letters: B clips, T frames.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

# Clips are mixed within so many neighbours, so that processes with a multiple of it mix as one process would.
GROUP = 4


def draw_frame_rows(prob: float, *, batch: int, frames: int, generator: Generator) -> Tensor:
    """Draws from which clip each frame of each clip is taken.

    At every place the frames of a group of neighbours are dealt out anew, each to one clip; a mixed clip takes what it was
    dealt, the others keep their own. Clips beyond the last whole group stay as they are.

    Args:
        prob: probability that a clip is mixed.
        batch: B.
        frames: T.
        generator: the only source of chance.

    Returns:
        int64 [B, T] on the generator's device.
    """
    device = generator.device
    own_B1 = torch.arange(batch, device=device).unsqueeze(1)
    groups = batch // GROUP
    dealt = torch.rand(groups, GROUP, frames, generator=generator, device=device).argsort(dim=1)
    dealt += GROUP * torch.arange(groups, device=device).reshape(-1, 1, 1)
    rest = own_B1[groups * GROUP :].expand(-1, frames)
    dealt_BT = torch.cat([dealt.reshape(-1, frames), rest])
    mixed_B1 = torch.rand(batch, 1, generator=generator, device=device) < prob
    return torch.where(mixed_B1, dealt_BT, own_B1)


def own_rows(rows_BT: Tensor, part: slice) -> Tensor:
    """The part of a draw that belongs to one process, counted from its first clip.

    A frame of a clip that another process holds is replaced by the clip's own.

    Args:
        rows_BT: a draw for the clips of all processes.
        part: which of them are this process's.
    """
    start, stop, _ = part.indices(len(rows_BT))
    rows = rows_BT[part] - start
    elsewhere = (rows < 0) | (rows >= stop - start)
    return torch.where(elsewhere, torch.arange(stop - start, device=rows.device).unsqueeze(1), rows)


def take_frames(pictures: Tensor, rows_BT: Tensor) -> Tensor:
    """The mixed clips' pictures: frame t of clip b is frame t of clip `rows[b, t]`.

    Args:
        pictures: [B, T, ...] of one sense; call it with the same rows for the other.
        rows_BT: of `draw_frame_rows`.
    """
    places_T = torch.arange(rows_BT.shape[1], device=pictures.device)
    return pictures[rows_BT.to(pictures.device), places_T]
