"""Fine-tuning a classifier: towers and a linear layer learn the classes of labelled clips."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from cmmixer import checkpoint
from cmmixer.checkpoint import Card
from cmmixer.config import AugmentSettings
from cmmixer.models.classifier import Classifier
from cmmixer.train.inputs import Chance, TrainingInputs
from cmmixer.types import Batch


class ClassifyTask:
    """Cross-entropy over classes, or over each class alone where clips may have several.

    Args:
        card: of a classifier.
        seed: of what the network starts at before a run's towers are put in.
        augment: of pictures and sounds.
        ids: of the R training clips.
        truth_RK: bool, their classes.
        there_RS: bool, whether each of the classifier's senses is there.
        several: whether a clip may have several classes.
        sense_dropout: probability that a clip that has two senses is shown one of them alone.
    """

    title = "fine-tuning a classifier"
    default_blr = 1e-3

    def __init__(
        self,
        card: Card,
        seed: int,
        augment: AugmentSettings,
        *,
        ids: Sequence[str],
        truth_RK: NDArray[np.bool_],
        there_RS: NDArray[np.bool_],
        several: bool,
        sense_dropout: float = 0.0,
    ) -> None:
        network = checkpoint.build(card, seed)
        assert isinstance(network, Classifier)
        self.network: nn.Module = network
        self.classifier, self.card = network, card
        self.several, self.sense_dropout = several, sense_dropout
        self.inputs = TrainingInputs(card.clip, card.statistics, augment)
        self._row_of_id = {name: row for row, name in enumerate(ids)}
        self._truth_RK = torch.from_numpy(truth_RK).float()
        self._there_RS = torch.from_numpy(there_RS).float()

    def losses(self, network: nn.Module, batch: Batch, chance: Chance) -> dict[str, Tensor]:
        """The classification loss of a batch."""
        pictures = self.inputs.each(batch, chance, self.classifier.senses)
        rows = [self._row_of_id[name] for name in batch.ids]
        keep_BS = self._keep(self._there_RS[rows], chance)
        device = pictures[0].device
        logits_BK = network(pictures, keep_BS.to(device))
        truth_BK = self._truth_RK[rows].to(device)
        if self.several:
            return {"loss": functional.binary_cross_entropy_with_logits(logits_BK, truth_BK)}
        return {"loss": functional.cross_entropy(logits_BK, truth_BK)}

    def picture(self, batch: Batch, chance: Chance) -> Tensor | None:
        """Nothing to look at."""
        return None

    def _keep(self, there_BS: Tensor, chance: Chance) -> Tensor:
        """1 for each sense that is shown: with probability `sense_dropout` one of a clip's two is not, either as likely."""
        if len(self.classifier.senses) == 1 or self.sense_dropout == 0.0:
            return there_BS
        drawn_B = torch.rand(chance.batch, generator=chance.cpu)[chance.rows]
        half = self.sense_dropout / 2
        shown_BS = torch.stack([drawn_B >= half, (drawn_B < half) | (drawn_B >= 2 * half)], dim=1).float()
        both_B1 = there_BS.all(dim=1, keepdim=True)
        return torch.where(both_B1, shown_BS, there_BS)
