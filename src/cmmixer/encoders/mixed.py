"""Any encoder with its matrix products in bfloat16; what goes in and comes out stays as it is.

Letters: B moments of a batch, T frames, C channels, H x W pixels, N samples of a window.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from cmmixer.encoders.interface import Encoder
from cmmixer.models.retriever import Embedding


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
