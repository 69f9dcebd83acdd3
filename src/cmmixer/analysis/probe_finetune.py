"""Fine-tuning of the towers as a classifier, cross-validated: trained on all folds but one, tested on that one.

The head is initialized with the linear probe of the training files (linear probing, then fine-tuning: arXiv 2202.10054). A random
head would distort the features in the first steps. The score of a file is the mean over its clips.

Letters: R clips, B clips of a batch, S modalities, D width, F files, K classes.
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

from cmmixer.analysis.labels import Labelled
from cmmixer.analysis.linear_probe import fit_regression
from cmmixer.checkpoint import Metadata
from cmmixer.config import AugmentSettings, ProbeSettings
from cmmixer.config.base import pick
from cmmixer.config.training import TrainingSettings
from cmmixer.data.loader import collate
from cmmixer.data.memmap import MemmapClips
from cmmixer.errors import CheckpointError
from cmmixer.models.classifier import Classifier
from cmmixer.models.retriever import Retriever
from cmmixer.progress import Progress
from cmmixer.train.classify import ClassifyTask
from cmmixer.train.distributed import make_fabric
from cmmixer.train.log import describe_data
from cmmixer.train.loop import fit
from cmmixer.train.resume import Run
from cmmixer.types import Clip
from cmmixer.version import __version__

_BATCH = 32
_MODALITIES = ("video", "audio")


@dataclasses.dataclass(frozen=True)
class Finetuning:
    """Cross-validated fine-tuning of one set of labelled files.

    Attributes:
        settings: of the command.
        labelled: the F files.
        clips: their decoded clips; `files_R` numbers the F files.
        modalities: of the task.
        metadata: of the run that training starts from.
        progress: receives the progress.
    """

    settings: ProbeSettings
    labelled: Labelled
    clips: MemmapClips
    modalities: tuple[str, ...]
    metadata: Metadata
    progress: Progress

    def scores(self, towers: Retriever, name: str) -> NDArray[np.float64]:
        """Scores each file, [F, K], with a classifier trained on the other folds.

        Args:
            towers: that training starts from.
            name: subfolder of `settings.out` for the classifiers.

        Raises:
            CheckpointError: the folder holds classifiers of another model, data set or settings.
            SettingsError: there are too few clips for a batch.
        """
        scores_FK = np.zeros(self.labelled.truth_FC.shape)
        folds_R = self.labelled.folds_F[self.clips.files_R]
        for fold in range(len(self.labelled.fold_names)):
            train_rows = np.flatnonzero(folds_R != fold)
            network = self.train(towers, train_rows, Path(self.settings.out) / name / f"fold-{fold}")
            for row, score_K in zip(*self._test(network, np.flatnonzero(folds_R == fold)), strict=True):
                scores_FK[row] = score_K
        return scores_FK

    def train(self, towers: Retriever, rows: NDArray[np.int64], out: Path) -> Classifier:
        """Trains a classifier on some of the clips as a run in `out`; resumes or reuses the run that is there.

        Returns:
            The classifier, in evaluation mode.

        Raises:
            CheckpointError, SettingsError: as in `scores`.
        """
        clips = self.clips.rows(rows)
        truth_RK = self.labelled.truth_FC[clips.files_R]
        training = self._training(out)
        fabric = make_fabric(training)
        task = ClassifyTask(
            self._metadata(towers, clips, training),
            self.settings.seed,
            pick(AugmentSettings, self.settings),
            ids=clips.ids,
            truth_RK=truth_RK,
            present_RS=self._present(clips),
            multi_label=self.labelled.several,
            modality_dropout=self.settings.modality_dropout,
        )
        with Run.open(training, fabric, clips=len(clips), kind="classifier") as run:
            _check_same_probe(run, task.metadata)
            task.classifier.load_towers(towers)
            self._start_head(task.classifier, clips, truth_RK, fabric)
            fit(task, clips, run, fabric, self.progress)
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

    def _metadata(self, towers: Retriever, clips: MemmapClips, training: TrainingSettings) -> Metadata:
        return Metadata(
            kind="classifier",
            model=self.metadata.model,
            clip=self.metadata.clip,
            statistics=self.metadata.statistics,
            options={
                "modalities": list(self.modalities),
                "classes": list(self.labelled.classes),
                "interleave": towers.interleave,
                "frame_level": towers.frame_level,
            },
            # The settings of the probe, such as the modality dropout, in addition to those of the training loop.
            settings={**dataclasses.asdict(self.settings), **dataclasses.asdict(training)},
            parent=self.metadata.model_id,
            data=describe_data(self.settings.data, clips),
            version=__version__,
        )

    def _present(self, clips: MemmapClips) -> NDArray[np.bool_]:
        return clips.present_RS[:, [_MODALITIES.index(modality) for modality in self.modalities]]

    def _start_head(self, network: Classifier, clips: MemmapClips, truth_RK: NDArray[np.bool_], fabric: Fabric) -> None:
        """Initializes the head with the linear probe of the training clips, on features normalized over those that have the modality."""
        network.to(fabric.device).eval()
        self.progress.start(len(clips), "initializing the head")
        features_RSD, present_RS = self._features(network, clips), self._present(clips)
        mean_SD, std_SD = _mean_and_std(features_RSD, present_RS)
        normalized_RSD = (features_RSD - mean_SD) / std_SD * present_RS[:, :, None]
        weight_KD, bias_K = fit_regression(normalized_RSD.reshape(len(clips), -1), truth_RK, self.labelled.several)
        network.initialize_head(*(torch.from_numpy(values) for values in (weight_KD, bias_K, mean_SD, std_SD)))

    @torch.no_grad()
    def _features(self, network: Classifier, clips: MemmapClips) -> NDArray[np.float64]:
        return self._map_clips(
            network, clips, lambda pixels, windows, _: network.features(network.preprocess(pixels, windows))
        )

    def _test(self, network: Classifier, test: NDArray[np.int64]) -> tuple[list[int], NDArray[np.float64]]:
        """Returns the tested files and their scores: class probabilities averaged over the clips of a file."""
        clips = self.clips.rows(test)
        self.progress.start(len(clips), "testing")
        logits_RK = torch.from_numpy(self._map_clips(network, clips, network.classify))
        scores_RK = (logits_RK.sigmoid() if self.labelled.several else logits_RK.softmax(dim=1)).numpy()
        files = np.unique(clips.files_R)
        return files.tolist(), np.stack([scores_RK[clips.files_R == number].mean(0) for number in files])

    def _map_clips(
        self, network: Classifier, clips: MemmapClips, function: Callable[[Tensor, Tensor, Tensor], Tensor]
    ) -> NDArray[np.float64]:
        device = next(network.parameters()).device
        present_RS = torch.from_numpy(self._present(clips)).float()
        outputs = []
        for start in range(0, len(clips), _BATCH):
            rows = range(start, min(start + _BATCH, len(clips)))
            batch = collate([clip for clip in clips.read(rows) if isinstance(clip, Clip)]).to(device)
            keep_BS = present_RS[start : rows.stop].to(device)
            outputs.append(function(batch.video_BTCHW, batch.audio_BTN, keep_BS).double().cpu().numpy())
            self.progress.advance(len(rows))
        return np.concatenate(outputs)


def _mean_and_std(
    features_RSD: NDArray[np.float64], present_RS: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation, [S, D] each, of each feature over the clips that have the modality; 1 for a constant feature."""
    means, stds = [], []
    for modality in range(present_RS.shape[1]):
        features_ND = features_RSD[present_RS[:, modality], modality]
        if not len(features_ND):  # no training clip has the modality: its features are zeroed everywhere
            features_ND = np.zeros((1, features_RSD.shape[2]))
        std_D = features_ND.std(0)
        means.append(features_ND.mean(0))
        stds.append(np.where(std_D > 1e-8, std_D, 1.0))
    return np.stack(means), np.stack(stds)


def _check_same_probe(run: Run, metadata: Metadata) -> None:
    """Refuses to resume the classifier of another model, data set or settings.

    Raises:
        CheckpointError: names what differs.
    """
    existing = run.metadata
    if existing is None:
        return
    ignored = {"workers", "bootstrap", "data", "model", "overwrite", "out", "device", "file_seconds"}
    differ = [
        name
        for name in sorted(metadata.settings)
        if name not in ignored and existing.settings.get(name) != metadata.settings[name]
    ]
    if existing.parent != metadata.parent:
        differ.insert(0, "model")
    if (existing.data["ids_sha256"], existing.options) != (metadata.data["ids_sha256"], metadata.options):
        differ.insert(0, "data")
    if differ:
        raise CheckpointError(
            f"{run.folder}: holds a classifier of another probe (other {', '.join(differ)}); give another --out, or --overwrite"
        )
