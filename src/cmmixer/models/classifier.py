"""The universal model: towers of an encoder and one linear layer that names classes.

    logits = W [keep * (feature - mean) / spread for each sense] + b

Mean and spread are those of the training clips before the first step and stay as they are; so a sense that is missing,
or was dropped while training, counts as an average one, and the layer can start at a regression found on the features.

Letters: B clips, T frames, C channels, H x W pixels, N samples of a window, S senses, D width, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cmmixer.config.clip import ClipSettings, ModelSettings
from cmmixer.models.frontend import FrontEnd
from cmmixer.models.heads import tower_features
from cmmixer.models.onednn import Linear
from cmmixer.models.retriever import Retriever
from cmmixer.models.vit import StripEncoder
from cmmixer.types import Statistics


class Classifier(nn.Module):
    """Names the classes of clips by their picture, their sound, or both.

    Args:
        model, clip, statistics: of the run whose towers it starts from.
        senses: "video", "audio", or both, in this order.
        classes: their names.
        interleave, frames_apart: how the run cuts strips.
    """

    mean_SD: Tensor
    spread_SD: Tensor

    def __init__(
        self,
        model: ModelSettings,
        clip: ClipSettings,
        statistics: Statistics,
        *,
        senses: Sequence[str],
        classes: Sequence[str],
        interleave: bool = False,
        frames_apart: bool = False,
    ) -> None:
        super().__init__()
        self.senses, self.classes = tuple(senses), tuple(classes)
        self.patch, self.interleave, self.frames_apart = model.patch, interleave, frames_apart
        self.frontend = FrontEnd(clip, statistics)
        self.encoders = nn.ModuleDict({sense: StripEncoder(model) for sense in self.senses})
        self.head = Linear(len(self.senses) * model.dim, len(self.classes))
        self.register_buffer("mean_SD", torch.zeros(len(self.senses), model.dim))
        self.register_buffer("spread_SD", torch.ones(len(self.senses), model.dim))

    def start_from(self, towers: Retriever) -> None:
        """Takes the towers of a run."""
        for sense, encoder in self.encoders.items():
            encoder.load_state_dict(towers.tower(sense).state_dict())

    @torch.no_grad()
    def start_head(self, weight_KF: Tensor, bias_K: Tensor, mean_SD: Tensor, spread_SD: Tensor) -> None:
        """Starts at a regression on standardised features, F = S x D (linear probing before fine-tuning, arXiv 2202.10054)."""
        self.head.weight.copy_(weight_KF)
        self.head.bias.copy_(bias_K)
        self.mean_SD.copy_(mean_SD)
        self.spread_SD.copy_(spread_SD)

    def pictures(self, pixels_BTCHW: Tensor, windows_BTN: Tensor) -> list[Tensor]:
        """Decoded clips -> standardised pictures [B, T, 3, H, W] of each sense; what belongs to none is not looked at.

        Args:
            pixels_BTCHW: uint8 frames.
            windows_BTN: int16 sound windows.
        """
        decoded = {"video": (self.frontend.video, pixels_BTCHW), "audio": (self.frontend.audio, windows_BTN)}
        return [prepare(values) for prepare, values in (decoded[sense] for sense in self.senses)]

    def features(self, pictures: Sequence[Tensor]) -> Tensor:
        """Standardised pictures [B, T, 3, H, W] of each sense -> float32 [B, S, D], as the towers give them."""
        found = [
            tower_features(self._encoder(sense), its_BTCHW, self.patch, self.interleave, apart=self.frames_apart)[
                0
            ].float()
            for sense, its_BTCHW in zip(self.senses, pictures, strict=True)
        ]
        return torch.stack(found, dim=1)

    def forward(self, pictures: Sequence[Tensor], keep_BS: Tensor) -> Tensor:
        """Logits [B, K].

        Args:
            pictures: standardised, of each sense [B, T, 3, H, W].
            keep_BS: 1 where a sense counts, 0 where it is missing or dropped.
        """
        standard_BSD = (self.features(pictures) - self.mean_SD) / self.spread_SD
        logits_BK: Tensor = self.head((standard_BSD * keep_BS.unsqueeze(-1)).flatten(1))
        return logits_BK

    @torch.inference_mode()
    def classify(self, pixels_BTCHW: Tensor, windows_BTN: Tensor, keep_BS: Tensor) -> Tensor:
        """Decoded clips, as of `pictures`, -> logits [B, K]; `keep_BS` as of `forward`."""
        logits_BK: Tensor = self(self.pictures(pixels_BTCHW, windows_BTN), keep_BS)
        return logits_BK

    def _encoder(self, sense: str) -> StripEncoder:
        encoder = self.encoders[sense]
        assert isinstance(encoder, StripEncoder)
        return encoder
