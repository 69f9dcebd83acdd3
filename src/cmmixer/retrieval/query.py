"""The query: cut into moments like the files of the index, and embedded by the index's model.

Letters: T frames of a moment, E values of a vector.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from cmmixer.config import SearchSettings
from cmmixer.embedding.pipeline import Moment, embed_file
from cmmixer.encoders.base import Encoder
from cmmixer.errors import MediaError
from cmmixer.retrieval.index import MomentIndex
from cmmixer.storage.files import temporary_folder
from cmmixer.types import Span

STANDARD_INPUT = "-"
# The modality of the query that each target is searched by, unless the settings name one.
SEARCHED_BY = {"audio": "video", "video": "audio", "any": "any"}


@dataclass(frozen=True)
class QueryMoment:
    """A moment of the query.

    Attributes:
        span: where it is in the query.
        vector_E: its vector.
        frames_TE: of one modality, the vectors of its frames; None for both fused.
    """

    span: Span
    vector_E: NDArray[np.float32]
    frames_TE: NDArray[np.float32] | None = None


@contextmanager
def query_file(query: str, stdin: BinaryIO | None) -> Iterator[str]:
    """Yields the query as a file; standard input is copied to a temporary one, because decoders have to seek."""
    if query != STANDARD_INPUT:
        yield query
        return
    with temporary_folder("cmmixer-query-") as folder:
        path = folder / "standard input"
        with path.open("wb") as file:
            shutil.copyfileobj(sys.stdin.buffer if stdin is None else stdin, file)
        try:
            yield str(path)
        except MediaError as error:
            raise MediaError("standard input", error.reason, error.message) from error


def embed_query(
    path: str, settings: SearchSettings, library: MomentIndex, encoder: Encoder
) -> tuple[str, str, list[QueryMoment]]:
    """Embeds the query.

    Args:
        path: the file.
        settings: say what to search for and by; what they leave out follows from what the query has.
        library: the index, which says how to cut the query.
        encoder: its model.

    Returns:
        The target, the modality of the query to search by, and the moments that have it.

    Raises:
        MediaError: the query cannot be used, or lacks that modality.
    """
    target = settings.target
    by = settings.by or (None if target is None else SEARCHED_BY[target])
    try:
        moments = embed_file(
            path,
            encoder,
            segmentation=library.metadata.segmentation,
            file_seconds=settings.file_seconds,
            video=by != "audio",
            audio=by != "video",
        )
    except MediaError as error:
        if by in (None, "any") or error.reason not in ("no-video", "no-audio", "silent"):
            raise
        needed = {"video": "frames", "audio": "sound"}[by]
        option = f"--for {target}" if settings.by is None else f"--by {by}"
        raise MediaError(error.path, error.reason, f"{error.message}, and {option} searches by {needed}") from error
    target, by = choose_modalities(moments, settings.target, settings.by)
    return target, by, query_moments_by(moments, by)


def choose_modalities(moments: Sequence[Moment], target: str | None, by: str | None) -> tuple[str, str]:
    """Completes the target and the modality to search by: the target is what the moments lack, or audio if they have both."""
    if target is None:
        target = "audio" if any(moment.video is not None for moment in moments) else "video"
    return target, by or SEARCHED_BY[target]


def uses_reranking(rerank: str | None, target: str, by: str) -> bool:
    """Returns whether hits are reranked by the order of events: as `rerank` says, else if one modality searches the other."""
    return rerank == "sequence" if rerank is not None else {target, by} == {"audio", "video"}


def query_moments_by(moments: Sequence[Moment], by: str) -> list[QueryMoment]:
    """Returns the moments that have this modality, perhaps none, with its vectors."""
    vectors = [(moment.span, getattr(moment, by), getattr(moment, f"{by}_frames", None)) for moment in moments]
    return [QueryMoment(span, vector_E, frames_TE) for span, vector_E, frames_TE in vectors if vector_E is not None]
