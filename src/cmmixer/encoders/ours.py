"""A finetune run as an encoder.

Letters: B moments of a batch, T frames, C channels, H x W pixels, N samples of a window.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from cmmixer.checkpoint import load_card, load_retriever, resolve
from cmmixer.config import ClipSettings
from cmmixer.models.linear import HAS_ONEDNN
from cmmixer.models.packed import PackedLinear, pack_linears
from cmmixer.models.retriever import Embedding, Retriever


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

    @classmethod
    def load(cls, path: str | Path, device: torch.device) -> ModelEncoder:
        """The encoder of a finetune run or checkpoint.

        Raises:
            CheckpointError: missing, damaged, or not a retriever.
        """
        folder = resolve(path)
        card = load_card(folder)
        return cls(card.model_id, os.path.abspath(folder), card.clip, load_retriever(folder, device), device)

    @property
    def dim(self) -> int:
        project = self.model.heads["video"].get_submodule("project")
        assert isinstance(project, nn.Linear | PackedLinear)
        return project.out_features

    def pack(self) -> None:
        """On a processor the network's matrix products go to oneDNN from now on; it can only embed then."""
        if self.device.type == "cpu" and HAS_ONEDNN:
            pack_linears(self.model)

    def embed_video(self, pixels_BTCHW: Tensor) -> Embedding:
        with torch.inference_mode():
            return self.model.embed_video(pixels_BTCHW.to(self.device))

    def embed_audio(self, windows_BTN: Tensor) -> Embedding:
        with torch.inference_mode():
            return self.model.embed_audio(windows_BTN.to(self.device))
