"""Other packages' encoders, found by name.

A package offers one through an entry point of the group `cmmixer.encoders`:

    [project.entry-points."cmmixer.encoders"]
    clap = "my_package:load"          # load(argument: str, device: torch.device) -> cmmixer.encoders.Encoder

and `--model clap:some/weights` calls `load("some/weights", device)`. What it gives is checked, because a wrong shape or length
would spoil an index silently.
"""

from __future__ import annotations

import re
from importlib.metadata import EntryPoint, entry_points

import torch
from torch import Tensor
from torch.nn import functional

from cmmixer.config import ClipSettings
from cmmixer.encoders.interface import Encoder
from cmmixer.errors import CMMixerError, SettingsError
from cmmixer.models.retriever import Embedding

GROUP = "cmmixer.encoders"


def split_name(model: str) -> tuple[str, str] | None:
    """`clap:some/weights` -> ("clap", "some/weights"); None for what is a path."""
    found = re.fullmatch(r"([A-Za-z][\w-]+):(.*)", model, re.DOTALL)
    return (found[1], found[2]) if found else None


def load_plugin(name: str, argument: str, device: torch.device) -> Encoder:
    """The encoder of an entry point.

    Raises:
        SettingsError: no such encoder is installed, a library it needs is missing, or it gives something else.
    """
    known = {point.name: point for point in entry_points(group=GROUP)}
    if name not in known:
        raise SettingsError(
            f"--model {name}:{argument}: no such folder, and no encoder named {name!r} is installed; known: "
            f"{', '.join(sorted(known)) or 'none'}"
        )
    encoder = _made_by(known[name], argument, device)
    if not isinstance(encoder, Encoder) or not isinstance(encoder.clip, ClipSettings):
        raise SettingsError(
            f"--model {name}:{argument}: {known[name].value} gave a {type(encoder).__name__}, expected "
            "a cmmixer.encoders.Encoder: id, path, dim, clip, embed_video, embed_audio"
        )
    return CheckedEncoder(encoder, f"{name}:{argument}")


def _made_by(point: EntryPoint, argument: str, device: torch.device) -> object:
    try:
        return point.load()(argument, device)
    except CMMixerError:
        raise
    except ModuleNotFoundError as fault:
        if fault.name is None or fault.name.startswith("cmmixer"):
            raise
        extra = f"'cmmixer[{', '.join(point.extras)}]'" if point.extras else fault.name
        raise SettingsError(
            f"--model {point.name}:{argument} needs {fault.name}, which is not installed; pip install {extra}"
        ) from fault


class CheckedEncoder:
    """Another package's encoder; each batch it gives is looked at, and made unit length."""

    def __init__(self, encoder: Encoder, path: str) -> None:
        self.encoder = encoder
        self.path = path
        self.id, self.dim, self.clip = encoder.id, encoder.dim, encoder.clip

    def embed_video(self, pixels_BTCHW: Tensor) -> Embedding:
        """As `Encoder` says.

        Raises:
            SettingsError: the encoder gave other shapes than it promised.
        """
        return self._checked(self.encoder.embed_video(pixels_BTCHW), len(pixels_BTCHW), "embed_video")

    def embed_audio(self, windows_BTN: Tensor) -> Embedding:
        """As `Encoder` says; errors as `embed_video`."""
        return self._checked(self.encoder.embed_audio(windows_BTN), len(windows_BTN), "embed_audio")

    def _checked(self, given: tuple[Tensor, Tensor], batch: int, what: str) -> Embedding:
        clip_BE, frames_BTE = given
        expected = (batch, self.dim), (batch, self.clip.frames, self.dim)
        got = tuple(clip_BE.shape), tuple(frames_BTE.shape)
        if got != expected:
            raise SettingsError(
                f"--model {self.path}: {what} gave vectors of shapes {got[0]} and {got[1]}, expected {expected[0]} and "
                f"{expected[1]}; the encoder is at fault"
            )
        return Embedding(
            functional.normalize(clip_BE.float(), dim=-1), functional.normalize(frames_BTE.float(), dim=-1)
        )
