"""Contrastive losses over the batches of all processes: InfoNCE and NT-Xent.

Each process scores its own B rows against all M columns and returns the mean over its rows. Gradients flow back through the
gathered columns to the process they came from, and are summed there. After the averaging of data-parallel training, loss
and gradient are those of a single process with all M pairs. Every process must bring the same B.

Letters: B pairs of this process, T frames, W processes, M = W * B pairs of all, E length of an embedding.
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
        video_BE, audio_BE: unit vectors; rows of the same index are a pair.
        logit_scale: s, 1 / temperature.

    Returns:
        Scalar, float32 or wider.
    """
    video_BE, audio_BE = _at_least_float32(video_BE), _at_least_float32(audio_BE)
    target_B = _first_row(len(video_BE)) + torch.arange(len(video_BE), device=video_BE.device)
    to_audio_BM = logit_scale * video_BE @ _gather(audio_BE).T
    to_video_BM = logit_scale * audio_BE @ _gather(video_BE).T
    return (functional.cross_entropy(to_audio_BM, target_B) + functional.cross_entropy(to_video_BM, target_B)) / 2


def nt_xent(video_BE: Tensor, audio_BE: Tensor, temperature: float) -> Tensor:
    """NT-Xent (SimCLR, arXiv 2002.05709, algorithm 1): scores each of the 2M samples against the 2M - 1 others.

    The positive is the other half of the pair; samples of the same modality are negatives too. The published CMMixer uses it.

    Args:
        video_BE, audio_BE: unit vectors; rows of the same index are a pair.
        temperature: divides the cosines.

    Returns:
        Scalar, float32 or wider.
    """
    video_BE, audio_BE = _at_least_float32(video_BE), _at_least_float32(audio_BE)
    all_video_ME, all_audio_ME = _gather(video_BE), _gather(audio_BE)
    pairs, row_B = len(all_video_ME), torch.arange(len(video_BE), device=video_BE.device) + _first_row(len(video_BE))
    own = torch.cat([row_B, row_B + pairs])
    partner = torch.cat([row_B + pairs, row_B])
    logits = torch.cat([video_BE, audio_BE]) @ torch.cat([all_video_ME, all_audio_ME]).T / temperature  # [2B, 2M]
    column = torch.arange(2 * pairs, device=video_BE.device)
    logits = logits.masked_fill(column == own.unsqueeze(1), float("-inf"))
    return functional.cross_entropy(logits, partner)


def sequence_vectors(frames_BTE: Tensor) -> Tensor:
    """Concatenates the frames of each clip: [B, T, E] -> [B, T * E], scaled to unit length.

    The dot product of two such vectors is the mean cosine of their aligned frames. Used in place of clip vectors, a loss
    contrasts the timing: a pair matches if its frames match in order. Comparing sequences before averaging: SCAV
    (arXiv 2407.05782); see `models.rerank`.
    """
    return frames_BTE.flatten(1) / math.sqrt(frames_BTE.shape[1])


def frame_vectors(frames_BTE: Tensor) -> Tensor:
    """Lists the frames of all clips: [B, T, E] -> [B * T, E].

    Used in place of clip vectors, a loss contrasts moments: a frame must find its own sound among those of the whole batch,
    including the other instants of its own clip. Such negatives: AVTS (arXiv 1807.00230, 3.1).
    """
    return frames_BTE.flatten(0, 1)


def _at_least_float32(embedding: Tensor) -> Tensor:
    """Widens half precision: in bfloat16 a cosine has fewer than three digits."""
    return embedding.float() if embedding.dtype in (torch.bfloat16, torch.float16) else embedding


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _first_row(rows: int) -> int:
    """Index of this process's first row among the rows of all processes."""
    return dist.get_rank() * rows if _distributed() else 0


class _GatherRows(torch.autograd.Function):
    """Concatenates the rows of all processes by rank. Backward sums the gradients and returns this process's rows."""

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
    """[B, E] -> [M, E], with gradients; a single process gets its own rows back."""
    if not _distributed():
        return rows
    gathered: Tensor = _GatherRows.apply(rows)  # type: ignore[no-untyped-call]
    return gathered
