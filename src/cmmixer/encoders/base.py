"""An encoder: two senses of a clip become unit vectors of one space.

Letters: B moments of a batch, T frames, C = 3 channels, H x W pixels, N samples of a window, E = the encoder's dim.

Any encoder with its matrix products in bfloat16; what goes in and comes out stays as it is.

Letters: B moments of a batch, T frames, C channels, H x W pixels, N samples of a window.

Other packages' encoders, found by name.

A package offers one through an entry point of the group `cmmixer.encoders`:

    [project.entry-points."cmmixer.encoders"]
    clap = "my_package:load"          # load(argument: str, device: torch.device) -> cmmixer.encoders.Encoder

and `--model clap:some/weights` calls `load("some/weights", device)`. What it gives is checked, because a wrong shape or length
would spoil an index silently.
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


@runtime_checkable
class Encoder(Protocol):
    """What embedding needs of a model.

    Attributes:
        id: names its weights, as a sha256 of them does; vectors of another id do not compare.
        path: what `--model` finds it by again.
        dim: E.
        clip: what it wants to be given: so many frames of such a size, and a sound window around each.
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
        """uint8 frames [B, T, 3, H, W], red-green-blue -> unit vectors of the clips [B, E] and of their frames [B, T, E].

        An encoder that knows no single frames repeats the clip's vector for each; `--rerank sequence` has nothing to go by then.
        """
        ...

    def embed_audio(self, windows_BTN: Tensor) -> Embedding:
        """int16 sound windows [B, T, N], mono -> the same. Windows as long as a T-th of the clip make up its whole sound."""
        ...


class MixedEncoder:
    """An encoder under torch's automatic mixed precision, as `--precision bf16-mixed` trains. Its id is the encoder's: vectors compare."""

    def __init__(self, encoder: Encoder, device: torch.device) -> None:
        self.encoder = encoder
        self.device = device
        self.id, self.path, self.dim, self.clip = encoder.id, encoder.path, encoder.dim, encoder.clip

    def embed_video(self, pixels_BTCHW: Tensor) -> Embedding:
        """As `Encoder` says."""
        with torch.autocast(self.device.type, torch.bfloat16):
            return _single(self.encoder.embed_video(pixels_BTCHW))

    def embed_audio(self, windows_BTN: Tensor) -> Embedding:
        """As `Encoder` says."""
        with torch.autocast(self.device.type, torch.bfloat16):
            return _single(self.encoder.embed_audio(windows_BTN))


def _single(given: Embedding) -> Embedding:
    """The last layer's rounding takes vectors off the sphere."""
    clip_BE, frames_BTE = (functional.normalize(part.float(), dim=-1) for part in given)
    return Embedding(clip_BE, frames_BTE)


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
