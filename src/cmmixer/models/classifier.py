"""The classifier: the towers of a run, and one linear layer from their features to class logits.

    logits = W [keep * (feature - mean) / std for each modality] + b

The means and standard deviations are those of the training clips before the first step, and stay fixed. So a modality that
is missing, or was dropped in training, counts as an average one, and the layer can start at a regression on the features.

Letters: B clips, T frames, C channels, H x W pixels, N samples of a window, S modalities, D width, K classes.
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
    """Classifies clips by their frames, their sound, or both.

    Args:
        model, clip, statistics: of the run that provides the towers.
        modalities: "video", "audio", or both, in this order.
        classes: the class names.
        interleave, frame_level: as in that run.
    """

    mean_SD: Tensor
    std_SD: Tensor

    def __init__(
        self,
        model: ModelSettings,
        clip: ClipSettings,
        statistics: Statistics,
        *,
        modalities: Sequence[str],
        classes: Sequence[str],
        interleave: bool = False,
        frame_level: bool = False,
    ) -> None:
        super().__init__()
        self.modalities, self.classes = tuple(modalities), tuple(classes)
        self.patch, self.interleave, self.frame_level = model.patch, interleave, frame_level
        self.frontend = FrontEnd(clip, statistics)
        self.encoders = nn.ModuleDict({modality: StripEncoder(model) for modality in self.modalities})
        self.head = Linear(len(self.modalities) * model.dim, len(self.classes))
        self.register_buffer("mean_SD", torch.zeros(len(self.modalities), model.dim))
        self.register_buffer("std_SD", torch.ones(len(self.modalities), model.dim))

    def load_towers(self, retriever: Retriever) -> None:
        """Copies the towers of a retriever; a shared one is copied for each modality."""
        for modality, encoder in self.encoders.items():
            encoder.load_state_dict(retriever.tower(modality).state_dict())

    @torch.no_grad()
    def initialize_head(self, weight_KF: Tensor, bias_K: Tensor, mean_SD: Tensor, std_SD: Tensor) -> None:
        """Initializes the linear layer with a regression on normalized features, F = S * D.

        Linear probing before fine-tuning: arXiv 2202.10054.
        """
        self.head.weight.copy_(weight_KF)
        self.head.bias.copy_(bias_K)
        self.mean_SD.copy_(mean_SD)
        self.std_SD.copy_(std_SD)

    def preprocess(self, pixels_BTCHW: Tensor, windows_BTN: Tensor) -> list[Tensor]:
        """Normalizes decoded clips: one [B, T, 3, H, W] for each modality of the classifier.

        Args:
            pixels_BTCHW: uint8 frames; ignored by a classifier of audio only.
            windows_BTN: int16 audio windows; ignored by a classifier of video only.
        """
        decoded = {"video": (self.frontend.video, pixels_BTCHW), "audio": (self.frontend.audio, windows_BTN)}
        return [normalize(values) for normalize, values in (decoded[modality] for modality in self.modalities)]

    def features(self, inputs: Sequence[Tensor]) -> Tensor:
        """Normalized inputs [B, T, 3, H, W], one per modality -> the towers' features, float32 [B, S, D]."""
        features_BD = []
        for modality, frames_BTCHW in zip(self.modalities, inputs, strict=True):
            clip_BD, _ = tower_features(
                self._encoder(modality), frames_BTCHW, self.patch, self.interleave, frame_level=self.frame_level
            )
            features_BD.append(clip_BD.float())
        return torch.stack(features_BD, dim=1)

    def forward(self, inputs: Sequence[Tensor], keep_BS: Tensor) -> Tensor:
        """Computes logits [B, K].

        Args:
            inputs: normalized, [B, T, 3, H, W] for each modality.
            keep_BS: 1 where a modality counts, 0 where it is missing or dropped.
        """
        normalized_BSD = (self.features(inputs) - self.mean_SD) / self.std_SD
        logits_BK: Tensor = self.head((normalized_BSD * keep_BS.unsqueeze(-1)).flatten(1))
        return logits_BK

    @torch.inference_mode()
    def classify(self, pixels_BTCHW: Tensor, windows_BTN: Tensor, keep_BS: Tensor) -> Tensor:
        """Computes logits [B, K] of decoded clips; see `preprocess` and `forward`."""
        logits_BK: Tensor = self(self.preprocess(pixels_BTCHW, windows_BTN), keep_BS)
        return logits_BK

    def _encoder(self, modality: str) -> StripEncoder:
        encoder = self.encoders[modality]
        assert isinstance(encoder, StripEncoder)
        return encoder
