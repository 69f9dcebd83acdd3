"""Loads the encoder that `--model` names: a finetune run, or NAME:ARGUMENT of a plug-in.

Letters: B moments of a batch, T frames, C channels, H x W pixels, N samples of an audio window.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from cmmixer.checkpoint import load_metadata, load_retriever, resolve
from cmmixer.config import ClipSettings
from cmmixer.encoders.base import CheckedEncoder, Encoder, MixedPrecisionEncoder, load_plugin, split_name
from cmmixer.models.onednn import HAS_ONEDNN, PackedLinear, pack_linears
from cmmixer.models.retriever import Embedding, Retriever
from cmmixer.runtime import select_device


@dataclass(frozen=True)
class ModelEncoder:
    """A retriever of `cmmixer finetune` as an `Encoder`.

    Attributes:
        id: sha256 of the weights.
        path: absolute path of the checkpoint.
        clip: geometry of the clips it was trained on.
        model: the network, in evaluation mode.
        device: device it computes on.
    """

    id: str
    path: str
    clip: ClipSettings
    model: Retriever
    device: torch.device

    @classmethod
    def load(cls, path: str | Path, device: torch.device) -> ModelEncoder:
        """Loads a finetune run or checkpoint.

        Raises:
            CheckpointError: it is missing, damaged, or not a retriever.
        """
        folder = resolve(path)
        metadata = load_metadata(folder)
        return cls(metadata.model_id, os.path.abspath(folder), metadata.clip, load_retriever(folder, device), device)

    @property
    def dim(self) -> int:
        """E, length of a vector."""
        project = self.model.heads["video"].get_submodule("project")
        assert isinstance(project, nn.Linear | PackedLinear)
        return project.out_features

    def pack(self) -> None:
        """Replaces the linear layers by oneDNN's on a CPU: faster, but the network can no longer be trained or saved."""
        if self.device.type == "cpu" and HAS_ONEDNN:
            pack_linears(self.model)

    def embed_video(self, pixels_BTCHW: Tensor) -> Embedding:
        """Embeds frames; see `Encoder`."""
        with torch.inference_mode():
            return self.model.embed_video(pixels_BTCHW.to(self.device))

    def embed_audio(self, windows_BTN: Tensor) -> Embedding:
        """Embeds audio windows; see `Encoder`."""
        with torch.inference_mode():
            return self.model.embed_audio(windows_BTN.to(self.device))


def load_encoder(model: str | Path, device: str = "auto", precision: str = "32-true") -> Encoder:
    """Loads the encoder of a finetune run or checkpoint, or of another package.

    Args:
        model: a folder, or NAME:ARGUMENT of a plug-in; a folder of this name takes precedence.
        device: auto, cpu or cuda.
        precision: 32-true, or bf16-mixed for matrix products in bfloat16.

    Raises:
        CheckpointError: the run is missing, damaged, or not a retriever.
        SettingsError: there is no such device, or the plug-in cannot be loaded.
    """
    torch_device = select_device(device)
    plugin = split_name(str(model))
    encoder: Encoder
    if plugin is not None and not Path(model).exists():
        encoder = load_plugin(*plugin, torch_device)
    else:
        encoder = ModelEncoder.load(model, torch_device)
    if precision == "bf16-mixed":
        return MixedPrecisionEncoder(encoder, torch_device)
    unwrapped = encoder.encoder if isinstance(encoder, CheckedEncoder) else encoder
    if isinstance(unwrapped, ModelEncoder):
        unwrapped.pack()
    return encoder
