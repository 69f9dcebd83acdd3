"""The query: cut into moments as the library was, with the vectors that ask.

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
# What of the query finds a target, if nothing else is said.
FOUND_BY = {"audio": "video", "video": "audio", "film": "film"}


@dataclass(frozen=True)
class Asking:
    """A moment of the query, and the vectors that ask with it: its own [E] and, of one sense, its frames' [T, E]."""

    span: Span
    vector_E: NDArray[np.float32]
    frames_TE: NDArray[np.float32] | None = None


@contextmanager
def query_file(query: str, stdin: BinaryIO | None) -> Iterator[str]:
    """The query as a file; standard input is put into a temporary one, because decoders need to go back and forth."""
    if query != STANDARD_INPUT:
        yield query
        return
    with temporary_folder("cmmixer-query-") as folder:
        path = folder / "standard input"
        with path.open("wb") as file:
            shutil.copyfileobj(sys.stdin.buffer if stdin is None else stdin, file)
        try:
            yield str(path)
        except MediaError as fault:
            raise MediaError("standard input", fault.reason, fault.message) from fault


def cut_query(
    path: str, settings: SearchSettings, library: MomentIndex, encoder: Encoder
) -> tuple[str, str, list[Asking]]:
    """What is searched for, what of the query it is found by, and the query's moments that ask for it.

    Raises:
        MediaError: the query cannot be used, or lacks the sense that finds the target.
    """
    wanted = settings.target
    by = settings.by or (None if wanted is None else FOUND_BY[wanted])
    try:
        moments = embed_file(
            path,
            encoder,
            cutting=library.card.cutting,
            file_seconds=settings.file_seconds,
            picture=by != "audio",
            sound=by != "video",
        )
    except MediaError as fault:
        if by in (None, "film") or fault.reason not in ("no-picture", "no-sound", "silent"):
            raise
        needs = {"video": "pictures", "audio": "sound"}[by]
        told = f"--for {wanted}" if settings.by is None else f"--by {by}"
        raise MediaError(fault.path, fault.reason, f"{fault.message}, and {told} searches with {needs}") from fault
    wanted, by = senses(moments, settings.target, settings.by)
    return wanted, by, asking_with(moments, by)


def senses(moments: Sequence[Moment], target: str | None, by: str | None) -> tuple[str, str]:
    """What is searched for and by which sense of these moments, where it was not said: the sense that they lack, or audio."""
    if target is None:
        target = "audio" if any(moment.video is not None for moment in moments) else "video"
    return target, by or FOUND_BY[target]


def reranked(rerank: str | None, target: str, by: str) -> bool:
    """Whether hits are ordered anew by what happens when: as was said, else where one sense asks for the other."""
    return rerank == "sequence" if rerank is not None else {target, by} == {"audio", "video"}


def asking_with(moments: Sequence[Moment], by: str) -> list[Asking]:
    """The moments that have this sense, ready to ask; none may be left."""
    vectors = [(moment.span, getattr(moment, by), getattr(moment, f"{by}_frames", None)) for moment in moments]
    return [Asking(*vector) for vector in vectors if vector[1] is not None]
