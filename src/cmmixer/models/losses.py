"""Contrastive losses over the batches of all processes.

Letters: B pairs of this process, W processes, M = W * B pairs of all, E length of an embedding. Each process scores its
own B rows against all M columns and returns the mean over its rows. Gathered columns carry gradients back to the
process they came from, summed; so after the averaging of data-parallel training the gradient is that of one process
with all M pairs, and the mean of the processes' values is its value. Every process must bring the same B.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional


def info_nce(video_BE: Tensor, audio_BE: Tensor, logit_scale: Tensor | float) -> Tensor:
    """Symmetric InfoNCE (arXiv 1807.03748; symmetric: CLIP, arXiv 2103.00020, figure 3).

    mean over i of [-log softmax_j(s <v_i, a_j>)_i - log softmax_j(s <a_i, v_j>)_i] / 2.

    Args:
        video_BE, audio_BE: unit vectors; row i of one belongs to row i of the other.
        logit_scale: s, 1 / temperature.

    Returns:
        Scalar, float32 or wider.
    """
    video_BE, audio_BE = _wide(video_BE), _wide(audio_BE)
    target_B = _first_row(len(video_BE)) + torch.arange(len(video_BE), device=video_BE.device)
    to_audio_BM = logit_scale * video_BE @ _gather(audio_BE).T
    to_video_BM = logit_scale * audio_BE @ _gather(video_BE).T
    return (functional.cross_entropy(to_audio_BM, target_B) + functional.cross_entropy(to_video_BM, target_B)) / 2


def nt_xent(video_BE: Tensor, audio_BE: Tensor, temperature: float) -> Tensor:
    """NT-Xent (SimCLR, arXiv 2002.05709, algorithm 1): each of the 2M samples against the 2M - 1 others.

    Its partner is the positive; samples of its own sense are negatives too. The published variant.

    Args:
        video_BE, audio_BE: unit vectors; row i of one belongs to row i of the other.
        temperature: what cosines are divided by.

    Returns:
        Scalar, float32 or wider.
    """
    video_BE, audio_BE = _wide(video_BE), _wide(audio_BE)
    all_video_ME, all_audio_ME = _gather(video_BE), _gather(audio_BE)
    pairs, row_B = len(all_video_ME), torch.arange(len(video_BE), device=video_BE.device) + _first_row(len(video_BE))
    own = torch.cat([row_B, row_B + pairs])
    partner = torch.cat([row_B + pairs, row_B])
    logits = torch.cat([video_BE, audio_BE]) @ torch.cat([all_video_ME, all_audio_ME]).T / temperature
    column = torch.arange(2 * pairs, device=video_BE.device)
    logits = logits.masked_fill(column == own.unsqueeze(1), float("-inf"))
    return functional.cross_entropy(logits, partner)


def sequence_vectors(frames_BTE: Tensor) -> Tensor:
    """[B, T, E] -> [B, T * E] of unit length, whose dot product is the mean over frames of the frames' cosines.

    With them in place of clip vectors a loss contrasts what happens when: a pair fits if its frames fit in their order
    (comparing sequences before averaging: SCAV, arXiv 2407.05782; see `evaluation.sequence`).
    """
    return frames_BTE.flatten(1) / math.sqrt(frames_BTE.shape[1])


def frame_vectors(frames_BTE: Tensor) -> Tensor:
    """[B, T, E] -> [B * T, E]: every frame of every clip for itself.

    With them in place of clip vectors a loss contrasts moments: a frame is to find its own sound among all of the batch, those of
    its own clip's other instants included (such negatives: AVTS, arXiv 1807.00230, 3.1).
    """
    return frames_BTE.flatten(0, 1)


def _wide(embedding: Tensor) -> Tensor:
    """At least float32: in bfloat16 a cosine has under three digits."""
    return embedding.float() if embedding.dtype in (torch.bfloat16, torch.float16) else embedding


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _first_row(rows: int) -> int:
    """Where this process's rows begin among all processes' rows."""
    return dist.get_rank() * rows if _distributed() else 0


class _GatherRows(torch.autograd.Function):
    """Rows of all processes, in the order of their ranks; gradients are summed and cut back into rows."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.rows = len(rows)
        gathered = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(gathered, rows.contiguous())
        return torch.cat(gathered)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        first = dist.get_rank() * ctx.rows
        return total[first : first + ctx.rows]


def _gather(rows: Tensor) -> Tensor:
    """[B, E] -> [M, E], differentiably; one process alone gets its own rows."""
    if not _distributed():
        return rows
    gathered: Tensor = _GatherRows.apply(rows)  # type: ignore[no-untyped-call]
    return gathered
