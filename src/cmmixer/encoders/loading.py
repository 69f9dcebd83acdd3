"""What `--model` means: a run, or `NAME:ARGUMENT` of a plug-in."""

from __future__ import annotations

from pathlib import Path

import torch

from cmmixer.encoders.interface import Encoder
from cmmixer.encoders.mixed import MixedEncoder
from cmmixer.encoders.ours import ModelEncoder
from cmmixer.encoders.plugins import CheckedEncoder, load_plugin, split_name
from cmmixer.errors import SettingsError


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


def device_named(name: str) -> torch.device:
    """The device of `--device`.

    Raises:
        SettingsError: it is not there.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise SettingsError("--device: got cuda, but torch sees no CUDA device; use --device cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
