"""What `--model` means: a run, or `NAME:ARGUMENT` of a plug-in.

A finetune run as an encoder.

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
from cmmixer.encoders.base import CheckedEncoder, Encoder, MixedEncoder, load_plugin, split_name
from cmmixer.models.onednn import HAS_ONEDNN, PackedLinear, pack_linears
from cmmixer.models.retriever import Embedding, Retriever
from cmmixer.runtime import device_named


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


def load_encoder(model: str | Path, device: str = "auto", precision: str = "32-true") -> Encoder:
    """The encoder of a finetune run or checkpoint, or one that another package brings.

    Args:
        model: a folder, or `NAME:ARGUMENT`; a folder of that name wins.
        device: auto, cpu or cuda.
        precision: 32-true, or bf16-mixed: matrix products in bfloat16.

    Raises:
        CheckpointError: a run that is missing, damaged, or not a retriever.
        SettingsError: a device that is not there, or an encoder that cannot be had.
    """
    where = device_named(device)
    named = split_name(str(model))
    encoder: Encoder
    if named is not None and not Path(model).exists():
        encoder = load_plugin(*named, where)
    else:
        encoder = ModelEncoder.load(model, where)
    if precision == "bf16-mixed":
        return MixedEncoder(encoder, where)
    ours = encoder.encoder if isinstance(encoder, CheckedEncoder) else encoder
    if isinstance(ours, ModelEncoder):
        ours.pack()
    return encoder
