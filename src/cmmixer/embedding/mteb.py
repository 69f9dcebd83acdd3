"""A trained model, or any other encoder, as a model of the MTEB benchmark library (extra `mteb`).

    import mteb
    from cmmixer.embedding.mteb import MTEBModel
    mteb.evaluate(MTEBModel("runs/fine"), mteb.get_tasks(tasks=["GreatestHitsV2ARetrieval"]))

Media are decoded as everywhere in this package, from the bytes of the files; MTEB's own decoding needs torchcodec and
torchaudio.

Letters: n rows of a data set, E = the encoder's dim.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from mteb.models import ModelMeta
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.model_meta import ScoringFunction
from numpy.typing import NDArray

from cmmixer.embedding.api import Model, load
from cmmixer.errors import DataError, SettingsError
from cmmixer.storage.files import temporary_folder
from cmmixer.version import __version__

_UNDECODED = {"video": datasets.Video(decode=False), "audio": datasets.Audio(decode=False)}
# Rows whose files are on disk at a time.
_ROWS_AT_ONCE = 32


class MTEBModel(AbsEncoder):  # type: ignore[misc]
    """Embeds the `video` and `audio` columns of MTEB's tasks; a row with both becomes one vector.

    A row's vector is that of `Model.encode_video`: the mean over its moments, normalized.

    Args:
        model: what `cmmixer.load` takes.
        device: auto, cpu or cuda.
        file_seconds: longest time spent on one row.
    """

    def __init__(self, model: str | Path, *, device: str = "auto", file_seconds: float = 60.0) -> None:
        self.model: Model = load(model, device)
        self.file_seconds = file_seconds
        self.mteb_model_meta = ModelMeta.create_empty(
            {
                "name": f"cmmixer/{self.model.id[:16]}",
                "revision": self.model.id[:40],
                "embed_dim": self.model.dim,
                "framework": ["PyTorch"],
                "similarity_fn_name": ScoringFunction.COSINE,
                "modalities": ["video", "audio"],
                "reference": f"cmmixer {__version__}",
            }
        )

    def encode(self, inputs: Any, *, task_metadata: Any, **_: Any) -> NDArray[np.float32]:
        """Embeds the rows of a task.

        Args:
            inputs: MTEB's loader; its dataset is read.
            task_metadata: of the task.

        Returns:
            Unit vectors, float32 [n, E].

        Raises:
            SettingsError: the task holds text or images.
            DataError: a row without media.
            MediaError: a row that cannot be used; a score without it would not be comparable.
        """
        columns = set(inputs.dataset.column_names)
        others = columns & {"text", "image"}
        modalities = sorted(columns & {"video", "audio"})
        if others or not modalities:
            raise SettingsError(
                f"{task_metadata.name}: got rows of {', '.join(sorted(others)) or 'neither video nor audio'}, expected video and "
                "audio; use tasks of the categories v2a and a2v"
            )
        rows = inputs.dataset.select_columns(modalities)
        for modality in modalities:
            rows = rows.cast_column(modality, _UNDECODED[modality])
        return np.concatenate([self._embed(rows.select(range(*part))) for part in _parts(len(rows))])

    def _embed(self, rows: Any) -> NDArray[np.float32]:
        with temporary_folder("cmmixer-mteb-") as folder:
            total = np.zeros((len(rows), self.model.dim), np.float64)
            for modality in rows.column_names:
                files = [_file(row[modality], folder / f"{modality}-{number}") for number, row in enumerate(rows)]
                encode = self.model.encode_video if modality == "video" else self.model.encode_audio
                total += encode(files, file_seconds=self.file_seconds)
        lengths = np.linalg.norm(total, axis=1, keepdims=True)
        return np.asarray(total / np.maximum(lengths, 1e-12), dtype=np.float32)


def _parts(count: int) -> Iterator[tuple[int, int]]:
    for first in range(0, count, _ROWS_AT_ONCE):
        yield first, min(first + _ROWS_AT_ONCE, count)


def _file(media: dict[str, Any] | None, path: Path) -> str:
    """Returns a file with the media of a row: its own, or `path` with its bytes."""
    if media is not None and media.get("bytes"):
        path.write_bytes(media["bytes"])
        return str(path)
    if media is not None and media.get("path"):
        return str(media["path"])
    raise DataError(f"row {path.name}: got neither bytes nor a path, expected one of them")
