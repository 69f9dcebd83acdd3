"""What embedding needs of a model, and the model of a finetune run as such.

Letters: B moments of a batch, T frames, C channels, H x W pixels, N samples of a window, E = the model's embed_dim.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from cmmixer.checkpoint import load_card, load_retriever, resolve
from cmmixer.config import ClipSettings
from cmmixer.errors import SettingsError
from cmmixer.models.retriever import Embedding, Retriever


class Encoder(Protocol):
    """What embedding needs of a model.

    Attributes:
        id: sha256 of its weights; vectors of another id do not compare.
        path: where it came from.
        dim: E.
        clip: geometry of what it was trained on.
    """

    @property
    def id(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def dim(self) -> int: ...
    @property
    def clip(self) -> ClipSettings: ...
    def embed_video(self, pixels_BTCHW: Tensor) -> Embedding: ...
    def embed_audio(self, windows_BTN: Tensor) -> Embedding: ...


@dataclass(frozen=True)
class ModelEncoder:
    """A retriever of `cmmixer finetune` as an `Encoder`.

    Attributes:
        id: sha256 of its weights.
        path: the checkpoint's folder, absolute.
        clip: geometry of what it was trained on.
        model: the network, in evaluation mode.
        device: where it computes.
    """

    id: str
    path: str
    clip: ClipSettings
    model: Retriever
    device: torch.device

    @property
    def dim(self) -> int:
        project = self.model.heads["video"].get_submodule("project")
        assert isinstance(project, nn.Linear)
        return project.out_features

    def embed_video(self, pixels_BTCHW: Tensor) -> Embedding:
        with torch.inference_mode():
            return self.model.embed_video(pixels_BTCHW.to(self.device))

    def embed_audio(self, windows_BTN: Tensor) -> Embedding:
        with torch.inference_mode():
            return self.model.embed_audio(windows_BTN.to(self.device))


def load_encoder(path: str | Path, device: str = "auto") -> ModelEncoder:
    """The encoder of a finetune run or checkpoint.

    Raises:
        CheckpointError: missing, damaged, or not a retriever.
        SettingsError: a device that is not there.
    """
    where = device_named(device)
    folder = resolve(path)
    card = load_card(folder)
    return ModelEncoder(card.model_id, os.path.abspath(folder), card.clip, load_retriever(folder, where), where)


def device_named(name: str) -> torch.device:
    """The device of `--device`.

    Raises:
        SettingsError: it is not there.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise SettingsError("--device: got cuda, but torch sees no CUDA device; use --device cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
