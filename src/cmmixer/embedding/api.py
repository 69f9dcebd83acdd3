"""The Python face of a trained run: paths in, unit vectors out.

Letters: n files, E = the model's embed_dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cmmixer.embedding.pipeline import embed_moments, file_entry
from cmmixer.encoders import hub
from cmmixer.encoders.base import Encoder
from cmmixer.encoders.loading import ModelEncoder, load_encoder
from cmmixer.errors import SettingsError


class LoadedRun:
    """A trained retriever, ready to embed files: the Python face of a run."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder

    def embed_video(self, paths: Sequence[str | Path], *, file_seconds: float = 60.0) -> NDArray[np.float32]:
        """Unit vectors of the files' pictures: the mean over each file's moments, made unit length again.

        Args:
            paths: films; their sound is not used.
            file_seconds: longest time spent on one file.

        Returns:
            float32 [n, E], one row a path.

        Raises:
            MediaError: a file that cannot be used; no vectors are given then.
        """
        return self._embed(paths, "video", file_seconds)

    def embed_audio(self, paths: Sequence[str | Path], *, file_seconds: float = 60.0) -> NDArray[np.float32]:
        """The same for the files' sound; silent stretches do not count."""
        return self._embed(paths, "audio", file_seconds)

    def embed_film(self, paths: Sequence[str | Path], *, file_seconds: float = 60.0) -> NDArray[np.float32]:
        """The same for picture and sound together; a file that lacks one of them, or where one is silent, gives the other."""
        return self._embed(paths, "film", file_seconds)

    def save_pretrained(self, folder: str | Path) -> Path:
        """Writes the network and its card to a new folder; see `cmmixer.encoders.hub.save_pretrained`.

        Raises:
            SettingsError: it is an encoder of another package.
            CheckpointError: the folder is there already or cannot be written.
        """
        return hub.save_pretrained(self._own_path("saved"), folder)

    def push_to_hub(self, repo_id: str, *, private: bool | None = None, token: str | None = None) -> str:
        """Uploads the same to the Hugging Face Hub and says where it stands; see `cmmixer.encoders.hub.push_to_hub`."""
        return hub.push_to_hub(self._own_path("uploaded"), repo_id, private=private, token=token)

    def _own_path(self, what: str) -> str:
        if not isinstance(self.encoder, ModelEncoder):
            raise SettingsError(f"{self.encoder.path}: is an encoder of another package; only finetune runs are {what}")
        return self.encoder.path

    def _embed(self, paths: Sequence[str | Path], sense: str, file_seconds: float) -> NDArray[np.float32]:
        if isinstance(paths, str | Path):
            raise SettingsError(f"embed_{sense}: got one path, expected a list of paths; write [{str(paths)!r}]")
        vectors_nE = np.zeros((len(paths), self.encoder.dim), np.float32)
        films = embed_moments(
            map(file_entry, paths),
            self.encoder,
            file_seconds=file_seconds,
            picture=sense != "audio",
            sound=sense != "video",
        )
        for film in films:
            if not film.moments:
                raise film.faults[0]
            mean_E = np.mean([getattr(moment, sense) for moment in film.moments], axis=0, dtype=np.float64)
            vectors_nE[film.number] = mean_E / max(float(np.linalg.norm(mean_E)), 1e-12)
        return vectors_nE


def load(run: str | Path, device: str = "auto") -> LoadedRun:
    """A finetune run or checkpoint, or another package's encoder as `NAME:ARGUMENT`, ready to embed files.

    Raises:
        CheckpointError: missing, damaged, or not a retriever.
        SettingsError: an encoder or a device that cannot be had.
    """
    return LoadedRun(load_encoder(run, device))


def from_pretrained(
    name: str | Path, *, revision: str | None = None, token: str | None = None, device: str = "auto"
) -> LoadedRun:
    """A run that was saved or uploaded: a folder, or `owner/name` on the Hugging Face Hub.

    Raises:
        CheckpointError: not there, not a retriever, no connection.
        SettingsError: huggingface_hub or the device is not there.
    """
    folder = hub.from_pretrained(name, revision=revision, token=token)
    return LoadedRun(load_encoder(folder, device))
