"""An encoder of ours, or any other of this interface, as a model of the MTEB benchmark library (extra `mteb`).

    import mteb
    from cmmixer.embedding.mteb import MTEBModel
    mteb.evaluate(MTEBModel("runs/fine"), mteb.get_tasks(tasks=["GreatestHitsV2ARetrieval"]))

Films and sounds are decoded as everywhere here, from the files' bytes; MTEB's own way needs torchcodec and torchaudio.

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

from cmmixer.embedding.api import LoadedRun, load
from cmmixer.errors import DataError, SettingsError
from cmmixer.storage.files import temporary_folder
from cmmixer.version import __version__

_DECODED_ELSEWHERE = {"video": datasets.Video(decode=False), "audio": datasets.Audio(decode=False)}
# Bytes of so many rows lie on disk at a time.
_ROWS_AT_ONCE = 32


class MTEBModel(AbsEncoder):  # type: ignore[misc]
    """Embeds the `video` and `audio` columns of MTEB's tasks; both together become one vector of a film.

    A row's vector is the mean over its moments, made unit length, as `cmmixer.load(run).embed_video` gives it.

    Args:
        model: a finetune run, or `NAME:ARGUMENT` of another encoder.
        device: auto, cpu or cuda.
        file_seconds: longest time spent on one row.
    """

    def __init__(self, model: str | Path, *, device: str = "auto", file_seconds: float = 60.0) -> None:
        self.model: LoadedRun = load(model, device)
        self.file_seconds = file_seconds
        encoder = self.model.encoder
        self.mteb_model_meta = ModelMeta.create_empty(
            {
                "name": f"cmmixer/{encoder.id[:16]}",
                "revision": encoder.id[:40],
                "embed_dim": encoder.dim,
                "framework": ["PyTorch"],
                "similarity_fn_name": ScoringFunction.COSINE,
                "modalities": ["video", "audio"],
                "reference": f"cmmixer {__version__}",
            }
        )

    def encode(self, inputs: Any, *, task_metadata: Any, **_: Any) -> NDArray[np.float32]:
        """Unit vectors of a task's rows, float32 [n, E].

        Args:
            inputs: MTEB's loader; its data set is read.
            task_metadata: of the task.

        Raises:
            SettingsError: the task holds text or images.
            DataError: a row without media.
            MediaError: a row that cannot be used; a figure without it would be one of another task.
        """
        columns = set(inputs.dataset.column_names)
        others = columns & {"text", "image"}
        senses = sorted(columns & {"video", "audio"})
        if others or not senses:
            raise SettingsError(
                f"{task_metadata.name}: got rows of {', '.join(sorted(others)) or 'nothing to see or hear'}; cmmixer embeds video and "
                "audio, as tasks of the categories v2a and a2v hold them"
            )
        rows = inputs.dataset.select_columns(senses)
        for sense in senses:
            rows = rows.cast_column(sense, _DECODED_ELSEWHERE[sense])
        parts = [self._vectors(rows.select(range(*part))) for part in _parts(len(rows))]
        return np.concatenate(parts)

    def _vectors(self, rows: Any) -> NDArray[np.float32]:
        with temporary_folder("cmmixer-mteb-") as folder:
            total = np.zeros((len(rows), self.model.encoder.dim), np.float64)
            for sense in rows.column_names:
                files = [_file(row[sense], folder / f"{sense}-{number}") for number, row in enumerate(rows)]
                embed = self.model.embed_video if sense == "video" else self.model.embed_audio
                total += embed(files, file_seconds=self.file_seconds)
        lengths = np.linalg.norm(total, axis=1, keepdims=True)
        return np.asarray(total / np.maximum(lengths, 1e-12), dtype=np.float32)


def _parts(count: int) -> Iterator[tuple[int, int]]:
    for first in range(0, count, _ROWS_AT_ONCE):
        yield first, min(first + _ROWS_AT_ONCE, count)


def _file(media: dict[str, Any] | None, place: Path) -> str:
    """A row's media as a file: where it stands already, or written to `place`."""
    if media is not None and media.get("bytes"):
        place.write_bytes(media["bytes"])
        return str(place)
    if media is not None and media.get("path"):
        return str(media["path"])
    raise DataError(f"row {place.name}: holds neither bytes nor a path")
