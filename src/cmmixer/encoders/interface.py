"""An encoder: two senses of a clip become unit vectors of one space.

Letters: B moments of a batch, T frames, C = 3 channels, H x W pixels, N samples of a window, E = the encoder's dim.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

from cmmixer.config import ClipSettings
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
