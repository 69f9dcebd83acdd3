"""What `--model` means: a run, or `NAME:ARGUMENT` of a plug-in."""

from __future__ import annotations

from pathlib import Path

import torch

from cmmixer.encoders.interface import Encoder
from cmmixer.encoders.ours import ModelEncoder
from cmmixer.encoders.plugins import load_plugin, split_name
from cmmixer.errors import SettingsError


def load_encoder(model: str | Path, device: str = "auto") -> Encoder:
    """The encoder of a finetune run or checkpoint, or one that another package brings.

    Args:
        model: a folder, or `NAME:ARGUMENT`; a folder of that name wins.
        device: auto, cpu or cuda.

    Raises:
        CheckpointError: a run that is missing, damaged, or not a retriever.
        SettingsError: a device that is not there, or an encoder that cannot be had.
    """
    where = device_named(device)
    named = split_name(str(model))
    if named is not None and not Path(model).exists():
        return load_plugin(*named, where)
    return ModelEncoder.load(model, where)


def device_named(name: str) -> torch.device:
    """The device of `--device`.

    Raises:
        SettingsError: it is not there.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise SettingsError("--device: got cuda, but torch sees no CUDA device; use --device cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
