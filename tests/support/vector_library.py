"""An index filled with vectors instead of videos, and a program that optimizes one and is killed.

`python -m tests.support.vector_library FOLDER STEP` optimizes the index and kills itself with SIGKILL after the step `built`
(a new ANN index beside the old one), `dropped` (without the old one) or `tuned` (before the metadata is written); if STEP is a
number, that many seconds after the start.
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

from benchmarks.speed.search_engines import draw_library
from cmmixer.config import IndexSettings
from cmmixer.retrieval import ann
from cmmixer.retrieval.build import index
from cmmixer.retrieval.index import MomentIndex
from cmmixer.retrieval.schema import FileRow
from tests.support.coloured_videos import CLIP

DIM = 32


class VectorEncoder:
    """An encoder with an id that embeds nothing."""

    id = hashlib.sha256(b"vectors").hexdigest()
    path = "runs/vectors"
    dim = DIM
    clip = CLIP


def fill(folder: Path, vectors_NE: np.ndarray, *, first: int = 0, modalities: Sequence[str] = ("audio",)) -> None:
    """Adds a file with one moment for each vector, named by its number; other modalities are missing."""
    with MomentIndex.writing(folder, VectorEncoder(), None) as library:  # type: ignore[arg-type]
        for start in range(0, len(vectors_NE), 1000):
            for place, vector in enumerate(vectors_NE[start : start + 1000], start=first + start):
                library.put(file_row(place), [moment(place, vector, modalities)], None)
            library.commit()


def file_row(place: int) -> FileRow:
    name = f"/sounds/{place}.wav"
    return FileRow(
        name=name, path=name, audio_path=None, root="/sounds", source=name, label=None, sizes=[1], mtimes_ns=[1],
        sha256=None, status="used", reason=None, message=None, limit_seconds=1.0, moments=1, batch=f"b{place}",
    )  # fmt: skip


def moment(place: int, vector_E: np.ndarray, modalities: Sequence[str]) -> dict[str, Any]:
    shared = {name: getattr(file_row(place), name) for name in ("batch", "path", "audio_path", "source", "label")}
    vectors = {modality: vector_E if modality in modalities else None for modality in ("video", "audio")}
    frames = {"video_frames": None, "audio_frames": None}
    return {
        "id": f"{place}", **shared, "start_seconds": 0.0, "end_seconds": 1.0, **vectors, "any": vector_E, **frames
    }  # fmt: skip


def slow_nearest(vectors_NE: np.ndarray, query_E: np.ndarray, limit: int) -> list[int]:
    """Compares the query with one vector after the other."""
    scored = sorted((-float(np.dot(vector, query_E)), place) for place, vector in enumerate(vectors_NE))
    return [place for _, place in scored[:limit]]


def found(
    library: MomentIndex, queries_QE: np.ndarray, modality: str = "audio", limit: int = 10, **options: Any
) -> list[list[int]]:
    """Returns the numbers of the moments nearest to each query, best first."""
    rows = library.nearest(queries_QE, modality, limit, **options)
    return [[int(row["id"]) for row in rows if row["query"] == query] for query in range(len(queries_QE))]


def recall(got: list[list[int]], vectors_NE: np.ndarray, queries_QE: np.ndarray) -> float:
    """Returns the part of the true 10 nearest that was found."""
    true = [slow_nearest(vectors_NE, query, 10) for query in queries_QE]
    return sum(len(set(a) & set(b)) for a, b in zip(got, true, strict=True)) / (10 * len(queries_QE))


def settings(folder: Path, **options: Any) -> IndexSettings:
    return IndexSettings(index=str(folder), optimize=True, exact_below=1000, **options)


def random_vectors(rows: int, queries: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    drawn = draw_library(rows, DIM, queries, seed)
    return drawn.rows_NE, drawn.queries_QE


def main() -> None:
    """Optimizes and is killed; see above."""
    folder, step = Path(sys.argv[1]), sys.argv[2]

    def die(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    if step.replace(".", "").isdigit():
        threading.Timer(float(step), die).start()
    else:
        owner: Any = ann if step == "dropped" else MomentIndex
        name = {"built": "drop_ann_indexes", "dropped": "_tune", "tuned": "write_ann_settings"}[step]
        original = getattr(owner, name)

        def last(library: MomentIndex, modality: str, *arguments: Any, **options: Any) -> Any:
            return die() if modality == "audio" else original(library, modality, *arguments, **options)

        setattr(owner, name, last)
    ann._QUERIES = 40
    print("begun", flush=True)
    index(settings(folder, index_kind="ivf_flat"))


if __name__ == "__main__":
    main()
