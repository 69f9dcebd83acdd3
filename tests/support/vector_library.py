"""An index filled with vectors instead of films, and a program that optimises one and dies.

As a program: `python -m tests.support.vector_library FOLDER STEP` optimises the index and kills itself with SIGKILL after the
step `built` (a new index beside the old), `dropped` (the old one gone), `tuned` (before the card is written), or for a
number, so many seconds after it began.
"""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.speed.search_engines import draw
from cmmixer.config import IndexSettings
from cmmixer.retrieval import ann
from cmmixer.retrieval.build import index
from cmmixer.retrieval.index import MomentIndex
from cmmixer.retrieval.schema import FileRow
from tests.support.coloured_videos import CLIP

DIM = 32


class VectorEncoder:
    """An encoder that is only asked who it is."""

    id = hashlib.sha256(b"vectors").hexdigest()
    path = "runs/vectors"
    dim = DIM
    clip = CLIP


def fill(folder: Path, vectors_NE: np.ndarray, *, first: int = 0, senses: Sequence[str] = ("audio",)) -> None:
    """Adds a file of one moment for each vector, named by its number; the senses not given are missing."""
    with MomentIndex.writing(folder, VectorEncoder(), None) as library:  # type: ignore[arg-type]
        for start in range(0, len(vectors_NE), 1000):
            for place, vector in enumerate(vectors_NE[start : start + 1000], start=first + start):
                library.put(file_row(place), [moment(place, vector, senses)], None)
            library.commit()


def file_row(place: int) -> FileRow:
    name = f"/sounds/{place}.wav"
    return FileRow(
        name=name, path=name, audio_path=None, root="/sounds", source=name, label=None, sizes=[1], mtimes_ns=[1],
        sha256=None, status="used", reason=None, message=None, limit_seconds=1.0, moments=1, batch=f"b{place}",
    )  # fmt: skip


def moment(place: int, vector_E: np.ndarray, senses: Sequence[str]) -> dict[str, Any]:
    shared = {name: getattr(file_row(place), name) for name in ("batch", "path", "audio_path", "source", "label")}
    vectors = {sense: vector_E if sense in senses else None for sense in ("video", "audio")}
    frames = {"video_frames": None, "audio_frames": None}
    return {
        "id": f"{place}", **shared, "start_seconds": 0.0, "end_seconds": 1.0, **vectors, "film": vector_E, **frames
    }  # fmt: skip


def slow_nearest(vectors_NE: np.ndarray, query_E: np.ndarray, limit: int) -> list[int]:
    """One vector after the other."""
    scored = sorted((-float(np.dot(vector, query_E)), place) for place, vector in enumerate(vectors_NE))
    return [place for _, place in scored[:limit]]


def found(
    library: MomentIndex, queries_QE: np.ndarray, sense: str = "audio", limit: int = 10, **options: Any
) -> list[list[int]]:
    """Numbers of the nearest to each query, in order."""
    rows = library.nearest(queries_QE, sense, limit, **options)
    return [[int(row["id"]) for row in rows if row["query"] == query] for query in range(len(queries_QE))]


def recall(got: list[list[int]], vectors_NE: np.ndarray, queries_QE: np.ndarray) -> float:
    """Part of the true 10 nearest that are there."""
    true = [slow_nearest(vectors_NE, query, 10) for query in queries_QE]
    return sum(len(set(a) & set(b)) for a, b in zip(got, true, strict=True)) / (10 * len(queries_QE))


def settings(folder: Path, **options: Any) -> IndexSettings:
    return IndexSettings(index=str(folder), optimize=True, exact_below=1000, **options)


def made(rows: int, queries: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    drawn = draw(rows, DIM, queries, seed)
    return drawn.rows_NE, drawn.queries_QE


def main() -> None:
    """Optimises and dies; see above."""
    folder, step = Path(sys.argv[1]), sys.argv[2]

    def die(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    if step.replace(".", "").isdigit():
        threading.Timer(float(step), die).start()
    else:
        home: Any = ann if step == "dropped" else MomentIndex
        name = {"built": "drop_indexes", "dropped": "_tuned", "tuned": "write_plan"}[step]
        whole = getattr(home, name)

        def last(library: MomentIndex, sense: str, *arguments: Any, **options: Any) -> Any:
            return die() if sense == "audio" else whole(library, sense, *arguments, **options)

        setattr(home, name, last)
    print("begun", flush=True)
    index(settings(folder, index_kind="ivf_flat"))


if __name__ == "__main__":
    main()
