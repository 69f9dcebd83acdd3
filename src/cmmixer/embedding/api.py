"""A trained model in Python: paths of files in, unit vectors out.

Letters: n files, E = the model's embed_dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cmmixer.config import ClipSettings
from cmmixer.embedding.pipeline import embed_moments, file_entry
from cmmixer.encoders import hub
from cmmixer.encoders.base import Encoder
from cmmixer.encoders.loading import ModelEncoder, load_encoder
from cmmixer.errors import SettingsError


class Model:
    """A trained retriever that embeds files. `cmmixer.load` makes one.

    Attributes:
        encoder: the network and its preprocessing.
    """

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder

    def __repr__(self) -> str:
        clip = self.clip
        geometry = f"{clip.frames} frames of {clip.height} x {clip.width} in {clip.clip_seconds:g} s"
        return f"Model({self.path!r}, id={self.id[:16]}, dim={self.dim}, clip={geometry})"

    @property
    def id(self) -> str:
        """sha256 of the weights; an index takes vectors of one id only."""
        return self.encoder.id

    @property
    def path(self) -> str:
        """Where it was loaded from."""
        return self.encoder.path

    @property
    def dim(self) -> int:
        """E, length of a vector."""
        return self.encoder.dim

    @property
    def clip(self) -> ClipSettings:
        """Frames, pixels and seconds of a clip that the model was trained on."""
        return self.encoder.clip

    def encode_video(self, paths: Sequence[str | Path], *, file_seconds: float = 60.0) -> NDArray[np.float32]:
        """Embeds the frames of files; their sound is not used.

        A file's vector is the mean over its moments, normalized.

        Args:
            paths: videos.
            file_seconds: longest time spent on one file.

        Returns:
            Unit vectors, float32 [n, E], one row for each path.

        Raises:
            MediaError: a file cannot be used; then no vectors are returned.
            SettingsError: a single path instead of a list.
        """
        return self._encode(paths, "video", file_seconds)

    def encode_audio(self, paths: Sequence[str | Path], *, file_seconds: float = 60.0) -> NDArray[np.float32]:
        """Embeds the sound of files, audio files or videos; silent moments do not count. See `encode_video`."""
        return self._encode(paths, "audio", file_seconds)

    def encode(self, paths: Sequence[str | Path], *, file_seconds: float = 60.0) -> NDArray[np.float32]:
        """Embeds frames and sound together; where one is missing or silent, the other alone. See `encode_video`."""
        return self._encode(paths, "any", file_seconds)

    def save_pretrained(self, folder: str | Path) -> Path:
        """Saves the weights and their metadata to a new folder; see `cmmixer.encoders.hub.save_pretrained`.

        Raises:
            SettingsError: the model is an encoder of another package.
            CheckpointError: the folder exists or cannot be written.
        """
        return hub.save_pretrained(self._run("saved"), folder)

    def push_to_hub(self, repo_id: str, *, private: bool | None = None, token: str | None = None) -> str:
        """Uploads the same to the Hugging Face Hub and returns its address; see `cmmixer.encoders.hub.push_to_hub`."""
        return hub.push_to_hub(self._run("uploaded"), repo_id, private=private, token=token)

    def _run(self, done: str) -> str:
        if not isinstance(self.encoder, ModelEncoder):
            raise SettingsError(f"{self.path}: is an encoder of another package; only finetune runs are {done}")
        return self.path

    def _encode(self, paths: Sequence[str | Path], modality: str, file_seconds: float) -> NDArray[np.float32]:
        if isinstance(paths, str | Path):
            raise SettingsError(f"encode: got one path, expected a list of paths; write [{str(paths)!r}]")
        vectors_nE = np.zeros((len(paths), self.dim), np.float32)
        files = embed_moments(
            map(file_entry, paths),
            self.encoder,
            file_seconds=file_seconds,
            video=modality != "audio",
            audio=modality != "video",
        )
        for file in files:
            if not file.moments:
                raise file.errors[0]
            mean_E = np.mean([getattr(moment, modality) for moment in file.moments], axis=0, dtype=np.float64)
            vectors_nE[file.number] = mean_E / max(float(np.linalg.norm(mean_E)), 1e-12)
        return vectors_nE


def load(model: str | Path, device: str = "auto") -> Model:
    """Loads a trained model.

    Args:
        model: a finetune run or checkpoint, `hub:owner/name` on the Hugging Face Hub, or `NAME:ARGUMENT` of another
            package's encoder.
        device: auto, cpu or cuda.

    Raises:
        CheckpointError: missing, damaged, or not a retriever.
        SettingsError: the encoder or the device is not available.
    """
    return Model(load_encoder(model, device))


def from_pretrained(
    name: str | Path, *, revision: str | None = None, token: str | None = None, device: str = "auto"
) -> Model:
    """Loads a model that was saved with `Model.save_pretrained` or uploaded with `Model.push_to_hub`.

    Args:
        name: a folder, or `owner/name` on the Hugging Face Hub.
        revision: branch, tag or commit there.
        token: of a Hugging Face account; None takes that of `hf auth login`.
        device: auto, cpu or cuda.

    Raises:
        CheckpointError: missing, not a retriever, or the Hub cannot be reached.
        SettingsError: huggingface_hub is not installed, or the device is not available.
    """
    return Model(load_encoder(hub.from_pretrained(name, revision=revision, token=token), device))
