"""The encoder interface, wrappers for mixed precision and for checks, and encoders of other packages (plug-ins).

An encoder embeds the video and the audio of a moment as unit vectors of one space. Another package offers one through an
entry point of the group `cmmixer.encoders`:

    [project.entry-points."cmmixer.encoders"]
    clap = "my_package:load"          # load(argument: str, device: torch.device) -> cmmixer.encoders.base.Encoder

`--model clap:some/weights` then calls `load("some/weights", device)`. The vectors of such an encoder are checked, because
wrong shapes or lengths would spoil an index silently.

Letters: B moments of a batch, T frames, C = 3 channels, H x W pixels, N samples of an audio window, E = the encoder's dim.
"""

from __future__ import annotations

import re
from importlib.metadata import EntryPoint, entry_points
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional

from cmmixer.config import ClipSettings
from cmmixer.errors import CMMixerError, SettingsError
from cmmixer.models.retriever import Embedding

GROUP = "cmmixer.encoders"


@runtime_checkable
class Encoder(Protocol):
    """A model that embeds moments.

    Attributes:
        id: identifies the weights, such as their sha256. Vectors of different ids cannot be compared.
        path: what `--model` finds the encoder by.
        dim: E, length of a vector.
        clip: geometry of its inputs: number and size of frames, and the audio window of each.
    """

    @property
    def id(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def dim(self) -> int: ...
    @property
    def clip(self) -> ClipSettings: ...
    def embed_video(self, pixels_BTCHW: Tensor) -> Embedding:
        """Embeds frames.

        Args:
            pixels_BTCHW: uint8 [B, T, 3, H, W], red-green-blue.

        Returns:
            Unit vectors of the moments [B, E] and of their frames [B, T, E]. An encoder without frame vectors repeats the
            vector of the moment; `--rerank sequence` then changes nothing.
        """
        ...

    def embed_audio(self, windows_BTN: Tensor) -> Embedding:
        """Embeds audio windows, int16 [B, T, N], mono, with the same return value.

        Windows that are as long as a T-th of the clip make up its whole sound.
        """
        ...


class MixedPrecisionEncoder:
    """An encoder under torch's automatic mixed precision (bfloat16). It keeps the encoder's id: their vectors compare."""

    def __init__(self, encoder: Encoder, device: torch.device) -> None:
        self.encoder = encoder
        self.device = device
        self.id, self.path, self.dim, self.clip = encoder.id, encoder.path, encoder.dim, encoder.clip

    def embed_video(self, pixels_BTCHW: Tensor) -> Embedding:
        """Embeds frames; see `Encoder`."""
        with torch.autocast(self.device.type, torch.bfloat16):
            return _unit_float32(*self.encoder.embed_video(pixels_BTCHW))

    def embed_audio(self, windows_BTN: Tensor) -> Embedding:
        """Embeds audio windows; see `Encoder`."""
        with torch.autocast(self.device.type, torch.bfloat16):
            return _unit_float32(*self.encoder.embed_audio(windows_BTN))


class CheckedEncoder:
    """An encoder of another package. The shapes of its vectors are checked, and the vectors normalized."""

    def __init__(self, encoder: Encoder, path: str) -> None:
        self.encoder = encoder
        self.path = path
        self.id, self.dim, self.clip = encoder.id, encoder.dim, encoder.clip

    def embed_video(self, pixels_BTCHW: Tensor) -> Embedding:
        """Embeds frames; see `Encoder`.

        Raises:
            SettingsError: the vectors have other shapes than promised.
        """
        return self._checked(self.encoder.embed_video(pixels_BTCHW), len(pixels_BTCHW), "embed_video")

    def embed_audio(self, windows_BTN: Tensor) -> Embedding:
        """Embeds audio windows; see `Encoder`. Raises what `embed_video` raises."""
        return self._checked(self.encoder.embed_audio(windows_BTN), len(windows_BTN), "embed_audio")

    def _checked(self, vectors: tuple[Tensor, Tensor], batch: int, method: str) -> Embedding:
        expected = (batch, self.dim), (batch, self.clip.frames, self.dim)
        got = tuple(vectors[0].shape), tuple(vectors[1].shape)
        if got != expected:
            raise SettingsError(
                f"--model {self.path}: {method} returned vectors of shapes {got[0]} and {got[1]}, expected {expected[0]} and "
                f"{expected[1]}; this is a bug in the encoder"
            )
        return _unit_float32(*vectors)


def _unit_float32(clip_BE: Tensor, frames_BTE: Tensor) -> Embedding:
    return Embedding(functional.normalize(clip_BE.float(), dim=-1), functional.normalize(frames_BTE.float(), dim=-1))


def split_name(model: str) -> tuple[str, str] | None:
    """Splits the name of a plug-in: `clap:some/weights` -> ("clap", "some/weights"); returns None for a path."""
    match = re.fullmatch(r"([A-Za-z][\w-]+):(.*)", model, re.DOTALL)
    return (match[1], match[2]) if match else None


def load_plugin(name: str, argument: str, device: torch.device) -> Encoder:
    """Loads the encoder of an entry point.

    Args:
        name: name of the entry point.
        argument: what its function is called with, such as a path.
        device: device to compute on.

    Raises:
        SettingsError: no such encoder is installed, a library that it needs is missing, or it is not an encoder.
    """
    known = {point.name: point for point in entry_points(group=GROUP)}
    if name not in known:
        raise SettingsError(
            f"--model {name}:{argument}: no such folder, and no encoder named {name!r} is installed; known: "
            f"{', '.join(sorted(known)) or 'none'}"
        )
    encoder = _load(known[name], argument, device)
    if not isinstance(encoder, Encoder) or not isinstance(encoder.clip, ClipSettings):
        raise SettingsError(
            f"--model {name}:{argument}: {known[name].value} returned a {type(encoder).__name__}, expected a "
            "cmmixer.encoders.base.Encoder with id, path, dim, clip, embed_video and embed_audio"
        )
    return CheckedEncoder(encoder, f"{name}:{argument}")


def _load(point: EntryPoint, argument: str, device: torch.device) -> object:
    try:
        return point.load()(argument, device)
    except CMMixerError:
        raise
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("cmmixer"):
            raise
        extra = f"'cmmixer[{', '.join(point.extras)}]'" if point.extras else error.name
        raise SettingsError(
            f"--model {point.name}:{argument} needs {error.name}, which is not installed; pip install {extra}"
        ) from error
