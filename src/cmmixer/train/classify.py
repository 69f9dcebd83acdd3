"""Fine-tuning a classifier: towers and a linear layer learn the classes of labelled clips.

Letters: R training clips, B clips of a batch, S modalities, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from cmmixer import checkpoint
from cmmixer.checkpoint import Metadata
from cmmixer.config import AugmentSettings
from cmmixer.models.classifier import Classifier
from cmmixer.train.inputs import StepRNG, TrainingInputs
from cmmixer.types import Batch


class ClassifyTask:
    """Cross-entropy over the classes, or binary cross-entropy over each class where clips have several labels.

    Args:
        metadata: metadata of the classifier.
        seed: seed of the initial weights, before towers are loaded.
        augment: augmentations of frames and audio.
        ids: ids of the R training clips.
        truth_RK: bool, the classes of each clip.
        present_RS: bool, which of the classifier's modalities each clip has.
        multi_label: whether a clip may have several classes.
        modality_dropout: probability that the classifier sees only one modality of a clip that has two.
    """

    title = "fine-tuning a classifier"
    default_blr = 1e-3

    def __init__(
        self,
        metadata: Metadata,
        seed: int,
        augment: AugmentSettings,
        *,
        ids: Sequence[str],
        truth_RK: NDArray[np.bool_],
        present_RS: NDArray[np.bool_],
        multi_label: bool,
        modality_dropout: float = 0.0,
    ) -> None:
        network = checkpoint.build(metadata, seed)
        assert isinstance(network, Classifier)
        self.network: nn.Module = network
        self.classifier, self.metadata = network, metadata
        self.multi_label, self.modality_dropout = multi_label, modality_dropout
        self.inputs = TrainingInputs(metadata.clip, metadata.statistics, augment)
        self._row_of_id = {clip_id: row for row, clip_id in enumerate(ids)}
        self._truth_RK = torch.from_numpy(truth_RK).float()
        self._present_RS = torch.from_numpy(present_RS).float()

    def losses(self, network: nn.Module, batch: Batch, rng: StepRNG) -> dict[str, Tensor]:
        """Returns the classification loss of a batch."""
        inputs = self.inputs.of_modalities(batch, rng, self.classifier.modalities)
        rows = [self._row_of_id[clip_id] for clip_id in batch.ids]
        keep_BS = self._drop_modalities(self._present_RS[rows], rng)
        device = inputs[0].device
        logits_BK = network(inputs, keep_BS.to(device))
        truth_BK = self._truth_RK[rows].to(device)
        if self.multi_label:
            return {"loss": functional.binary_cross_entropy_with_logits(logits_BK, truth_BK)}
        return {"loss": functional.cross_entropy(logits_BK, truth_BK)}

    def reconstruction_image(self, batch: Batch, rng: StepRNG) -> Tensor | None:
        """Returns None: the classifier reconstructs nothing."""
        return None

    def _drop_modalities(self, present_BS: Tensor, rng: StepRNG) -> Tensor:
        """Drops one modality of a clip that has two with probability `modality_dropout`, either one equally likely.

        Returns:
            1 for each modality that is kept, [B, S].
        """
        if len(self.classifier.modalities) == 1 or self.modality_dropout == 0.0:
            return present_BS
        uniform_B = torch.rand(rng.global_batch, generator=rng.cpu_generator)[rng.rows]
        half = self.modality_dropout / 2
        kept_BS = torch.stack([uniform_B >= half, (uniform_B < half) | (uniform_B >= 2 * half)], dim=1).float()
        has_both_B1 = present_BS.all(dim=1, keepdim=True)
        return torch.where(has_both_B1, kept_BS, present_BS)
