"""Cross-clip frame mixup: makes new pairs whose frames come from several clips of the batch.

    video'[b, t] = video[rows[b, t], t],  audio'[b, t] = audio[rows[b, t], t]

The cross-modal mixer blends a clip's frames with its own sound. This one exchanges frames between clips and keeps the
modalities separate. A frame and the audio window centred on it move together, so a new clip is still a true pair. It shares
frames with other clips of the batch, which become hard negatives for it.

Cutting clips together in time is T-VideoMix (arXiv 2012.03457), there for one modality and its label. Doing it for both
modalities and for each frame is ours. Results: docs/study.md.

Letters: B clips, T frames.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

# Frames are exchanged within groups of this many neighbouring clips. Processes whose batch is a multiple of it mix exactly
# as a single process would.
GROUP = 4


def draw_frame_rows(prob: float, *, batch: int, frames: int, generator: Generator) -> Tensor:
    """Draws the clip from which each frame of each clip is taken.

    At each time step the frames of a group are permuted among its clips. A mixed clip takes the frames it drew, the others
    keep their own. Clips after the last full group are never mixed.

    Args:
        prob: probability that a clip is mixed.
        batch: B.
        frames: T.
        generator: the only source of randomness.

    Returns:
        int64 [B, T] on the generator's device.
    """
    device = generator.device
    own_B1 = torch.arange(batch, device=device).unsqueeze(1)
    groups = batch // GROUP
    permuted = torch.rand(groups, GROUP, frames, generator=generator, device=device).argsort(dim=1)
    permuted += GROUP * torch.arange(groups, device=device).reshape(-1, 1, 1)
    rest = own_B1[groups * GROUP :].expand(-1, frames)
    permuted_BT = torch.cat([permuted.reshape(-1, frames), rest])
    mixed_B1 = torch.rand(batch, 1, generator=generator, device=device) < prob
    return torch.where(mixed_B1, permuted_BT, own_B1)


def local_rows(rows_BT: Tensor, part: slice) -> Tensor:
    """Returns one process's part of a draw, with rows counted from its own first clip.

    A frame from a clip of another process is replaced by the clip's own frame.

    Args:
        rows_BT: a draw for the clips of all processes.
        part: the clips of this process.
    """
    start, stop, _ = part.indices(len(rows_BT))
    rows = rows_BT[part] - start
    elsewhere = (rows < 0) | (rows >= stop - start)
    return torch.where(elsewhere, torch.arange(stop - start, device=rows.device).unsqueeze(1), rows)


def take_frames(frames: Tensor, rows_BT: Tensor) -> Tensor:
    """Gathers the frames of the mixed clips: frame t of clip b is frame t of clip `rows[b, t]`.

    Args:
        frames: [B, T, ...] of one modality. Call it with the same rows for the other.
        rows_BT: from `draw_frame_rows`.
    """
    time_T = torch.arange(rows_BT.shape[1], device=frames.device)
    return frames[rows_BT.to(frames.device), time_T]
