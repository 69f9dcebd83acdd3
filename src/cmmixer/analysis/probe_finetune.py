"""Towers trained on with the labels of all folds but one, and tested on that one.

The classifier starts at the linear probe of its own training files (linear probing, then fine-tuning: arXiv 2202.10054), so
that the towers are not torn about by a layer that knows nothing yet. A file's score is the mean over its clips.

Letters: R clips, B clips of a batch, S senses, D width, F files, K classes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from lightning.fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor

from cmmixer import checkpoint
from cmmixer.analysis.labels import Labelled
from cmmixer.analysis.linear_probe import regression
from cmmixer.checkpoint import Card
from cmmixer.config import AugmentSettings, ProbeSettings
from cmmixer.config.base import pick
from cmmixer.config.training import TrainingSettings
from cmmixer.data.loader import collate
from cmmixer.data.memmap import SpooledClips
from cmmixer.errors import CheckpointError
from cmmixer.models.classifier import Classifier
from cmmixer.models.retriever import Retriever
from cmmixer.progress import Progress
from cmmixer.train.classify import ClassifyTask
from cmmixer.train.distributed import make_fabric
from cmmixer.train.log import describe_data
from cmmixer.train.loop import fit
from cmmixer.train.resume import goes_on
from cmmixer.types import Clip
from cmmixer.version import __version__

_BATCH = 32
_SENSES = ("video", "audio")


@dataclasses.dataclass(frozen=True)
class Finetuning:
    """Cross-validated fine-tuning of one set of labelled files.

    Attributes:
        settings: of the command.
        labelled: the F files, those of `clips`.
        clips: their decoded clips; `files_R` numbers the F files.
        senses: of the task.
        card: of the run to start from.
        progress: told how it goes on.
    """

    settings: ProbeSettings
    labelled: Labelled
    clips: SpooledClips
    senses: tuple[str, ...]
    card: Card
    progress: Progress

    def scores(self, towers: Retriever, name: str) -> NDArray[np.float64]:
        """Each file's score for each class, [F, K], from the classifier that learnt from the other folds.

        Args:
            towers: to start from.
            name: folder of the classifiers, within the command's.

        Raises:
            CheckpointError: the folder holds classifiers of another model, of other data or settings.
            SettingsError: too few clips for a batch.
        """
        scores_FK = np.zeros(self.labelled.truth_FC.shape)
        folds_R = self.labelled.folds_F[self.clips.files_R]
        for fold in range(len(self.labelled.fold_names)):
            train = np.flatnonzero(folds_R != fold)
            network = self.trained(towers, train, Path(self.settings.out) / name / f"fold-{fold}")
            for row, score_K in zip(*self._tested(network, np.flatnonzero(folds_R == fold)), strict=True):
                scores_FK[row] = score_K
        return scores_FK

    def trained(self, towers: Retriever, train: NDArray[np.int64], out: Path) -> Classifier:
        """The classifier that learnt from some of the clips, in evaluation mode; a run of its own in `out`.

        Raises:
            CheckpointError, SettingsError: as `scores`.
        """
        clips = self.clips.rows(train)
        truth_RK = self.labelled.truth_FC[clips.files_R]
        training = self._training(out)
        fabric = make_fabric(training)
        task = ClassifyTask(
            self._card(towers, clips, training),
            self.settings.seed,
            pick(AugmentSettings, self.settings),
            ids=clips.ids,
            truth_RK=truth_RK,
            there_RS=self._there(clips),
            several=self.labelled.several,
            sense_dropout=self.settings.sense_dropout,
        )
        _refuse_other(out, task.card, training)
        task.classifier.start_from(towers)
        self._start_head(task.classifier, clips, truth_RK, fabric)
        fit(task, clips, training, fabric, self.progress)
        return task.classifier.eval()

    def _training(self, out: Path) -> TrainingSettings:
        settings = self.settings
        return TrainingSettings(
            out=str(out),
            epochs=settings.epochs,
            batch_size=settings.batch_size,
            lr=settings.lr,
            warmup_epochs=settings.warmup_epochs,
            weight_decay=settings.weight_decay,
            seed=settings.seed,
            num_workers=0,
            device=settings.device,
            keep=1,
            overwrite=settings.overwrite,
        )

    def _card(self, towers: Retriever, clips: SpooledClips, training: TrainingSettings) -> Card:
        return Card(
            kind="classifier",
            model=self.card.model,
            clip=self.card.clip,
            statistics=self.card.statistics,
            options={
                "senses": list(self.senses),
                "classes": list(self.labelled.classes),
                "interleave": towers.interleave,
                "frames_apart": towers.frames_apart,
            },
            # What the loop does not know of, such as the dropped senses, stands beside its own settings.
            settings={**dataclasses.asdict(self.settings), **dataclasses.asdict(training)},
            parent=self.card.model_id,
            data=describe_data(self.settings.data, clips),
            version=__version__,
        )

    def _there(self, clips: SpooledClips) -> NDArray[np.bool_]:
        return clips.there_RS[:, [_SENSES.index(sense) for sense in self.senses]]

    def _start_head(
        self, network: Classifier, clips: SpooledClips, truth_RK: NDArray[np.bool_], fabric: Fabric
    ) -> None:
        """The linear probe of the training clips, on features standardised over those that have the sense."""
        network.to(fabric.device).eval()
        self.progress.start(len(clips), "a first look at the clips")
        features_RSD, there_RS = self._features(network, clips), self._there(clips)
        mean_SD, spread_SD = _standards(features_RSD, there_RS)
        standard_RSD = (features_RSD - mean_SD) / spread_SD * there_RS[:, :, None]
        weight_KF, bias_K = regression(standard_RSD.reshape(len(clips), -1), truth_RK, self.labelled.several)
        network.start_head(*(torch.from_numpy(values) for values in (weight_KF, bias_K, mean_SD, spread_SD)))

    @torch.no_grad()
    def _features(self, network: Classifier, clips: SpooledClips) -> NDArray[np.float64]:
        return self._of_all(
            network, clips, lambda pixels, windows, _: network.features(network.pictures(pixels, windows))
        )

    def _tested(self, network: Classifier, test: NDArray[np.int64]) -> tuple[list[int], NDArray[np.float64]]:
        """Files of the clips and their scores: probabilities averaged over a file's clips."""
        clips = self.clips.rows(test)
        self.progress.start(len(clips), "testing")
        logits_RK = torch.from_numpy(self._of_all(network, clips, network.classify))
        scores_RK = (logits_RK.sigmoid() if self.labelled.several else logits_RK.softmax(dim=1)).numpy()
        files = np.unique(clips.files_R)
        return files.tolist(), np.stack([scores_RK[clips.files_R == number].mean(0) for number in files])

    def _of_all(
        self, network: Classifier, clips: SpooledClips, give: Callable[[Tensor, Tensor, Tensor], Tensor]
    ) -> NDArray[np.float64]:
        device = next(network.parameters()).device
        there_RS = torch.from_numpy(self._there(clips)).float()
        found = []
        for start in range(0, len(clips), _BATCH):
            rows = range(start, min(start + _BATCH, len(clips)))
            batch = collate([clip for clip in clips.read(rows) if isinstance(clip, Clip)]).to(device)
            keep_BS = there_RS[start : rows.stop].to(device)
            found.append(give(batch.video_BTCHW, batch.audio_BTN, keep_BS).double().cpu().numpy())
            self.progress.advance(len(rows))
        return np.concatenate(found)


def _standards(
    features_RSD: NDArray[np.float64], there_RS: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and spread of each feature over the clips that have the sense, each [S, D]; a constant feature's spread is 1."""
    means, spreads = [], []
    for sense in range(there_RS.shape[1]):
        features_ND = features_RSD[there_RS[:, sense], sense]
        if not len(features_ND):  # no training clip has it: nothing is known of it, and it never counts
            features_ND = np.zeros((1, features_RSD.shape[2]))
        spread_D = features_ND.std(0)
        means.append(features_ND.mean(0))
        spreads.append(np.where(spread_D > 1e-8, spread_D, 1.0))
    return np.stack(means), np.stack(spreads)


def _refuse_other(out: Path, card: Card, training: TrainingSettings) -> None:
    """A folder of classifiers is gone on with by the same model, data and settings only.

    Raises:
        CheckpointError: says what differs.
    """
    if not goes_on(training):
        return
    there = checkpoint.load_card(out, "classifier")
    free = {"workers", "bootstrap", "data", "model", "overwrite", "out", "device", "file_seconds"}
    differ = [
        name for name in sorted(card.settings) if name not in free and there.settings.get(name) != card.settings[name]
    ]
    if there.parent != card.parent:
        differ.insert(0, "model")
    if (there.data["ids_sha256"], there.options) != (card.data["ids_sha256"], card.options):
        differ.insert(0, "data")
    if differ:
        raise CheckpointError(
            f"{out}: holds a classifier of another probe (other {', '.join(differ)}); give another --out, or --overwrite"
        )
