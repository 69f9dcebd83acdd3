"""A batch of moments -> their unit vectors. Whatever decodes them and wherever it runs, this is what asks the model.

Letters: B moments of a batch, T frames, C channels, H x W pixels, N samples of a window, E = the encoder's dim.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cmmixer.data.moments import MomentMedia
from cmmixer.encoders import Encoder
from cmmixer.errors import InternalError
from cmmixer.models.retriever import Embedding
from cmmixer.types import Span

Vector = NDArray[np.float32]


@dataclass(frozen=True)
class Moment:
    """A stretch of a film and its unit vectors, float32; a sense that is missing there has None.

    Attributes:
        span: where it is.
        video, audio: [E], of the whole moment.
        video_frames, audio_frames: [T, E], of each frame and of the sound around it.
    """

    span: Span
    video: Vector | None
    audio: Vector | None
    video_frames: Vector | None = None
    audio_frames: Vector | None = None

    @property
    def film(self) -> Vector:
        """Both senses as one unit vector [E]; the only one where one is missing. See `both_senses`."""
        return both_senses(self.video, self.audio)


def both_senses(video_E: Vector | None, audio_E: Vector | None) -> Vector:
    """The unit vector along the sum of both senses' unit vectors.

    The contrast has laid a film's picture and its sound near one another, so their middle stands for the film, and either
    of them for it where the other is missing: nothing has to be trained for that.

    Raises:
        ValueError: both are missing.
    """
    there = [vector for vector in (video_E, audio_E) if vector is not None]
    if not there:
        raise ValueError("a film without picture and sound has no vector")
    total = np.sum(there, axis=0, dtype=np.float64)
    return np.asarray(total / max(float(np.linalg.norm(total)), 1e-12), dtype=np.float32)


def embed_batch(media: Sequence[MomentMedia], encoder: Encoder) -> list[Moment]:
    """Embeds decoded moments together, in their order; they may be of many films.

    Args:
        media: moments of one geometry; each has a picture, a sound, or both.
        encoder: the model.

    Raises:
        InternalError: the model gives vectors that are not finite.
    """
    video = _sense([moment.pixels_TCHW for moment in media], encoder.embed_video)
    audio = _sense([moment.samples_TN for moment in media], encoder.embed_audio)
    return [
        Moment(moment.span, seen, heard, seen_frames, heard_frames)
        for moment, (seen, seen_frames), (heard, heard_frames) in zip(media, video, audio, strict=True)
    ]


def _sense(
    media: Sequence[NDArray[Any] | None], embed: Callable[[Tensor], Embedding]
) -> list[tuple[Vector, Vector] | tuple[None, None]]:
    """Vectors [E] and of frames [T, E] of those that have this sense, in place."""
    there = [(place, values) for place, values in enumerate(media) if values is not None]
    vectors: list[tuple[Vector, Vector] | tuple[None, None]] = [(None, None)] * len(media)
    if there:
        batch = torch.from_numpy(np.stack([values for _, values in there]))
        clip_BE, frames_BTE = (part.detach().to("cpu", torch.float32).numpy() for part in embed(batch))
        if not np.isfinite(clip_BE).all():
            raise InternalError("the model gives vectors that are not finite; take another checkpoint of its run")
        for (place, _), vector, frames in zip(there, clip_BE, frames_BTE, strict=True):
            vectors[place] = vector, frames
    return vectors
