"""Features of files for a classifier: of a tower that is not trained on, and of plain statistics to hold it against.

Several clips evenly over a file are described, from a centre crop of its pictures, and its features are their mean: for a
linear classifier that is the mean of the clips' logits, the multi-clip protocol of Kinetics (arXiv 1711.07971, 4.1).

Letters: B clips of a batch, T frames, C channels, H x W pixels, D features, F files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from cmmixer import checkpoint
from cmmixer.checkpoint import Card
from cmmixer.config import ClipSettings
from cmmixer.data.manifest import Entry
from cmmixer.data.skips import SkipReport
from cmmixer.embedding.pipeline import embed_moments
from cmmixer.media.mel import MelPictures
from cmmixer.media.timeline import SLACK_SECONDS
from cmmixer.models.retriever import Embedding, Retriever
from cmmixer.progress import Progress

# Side of the grid whose mean colours describe a picture.
_PICTURE_GRID = 4
SENSES_OF_TASK = {"audio": ("audio",), "video": ("video",), "audiovisual": ("video", "audio")}


class Describer(Protocol):
    """Gives features of clips."""

    def describe_video(self, pixels_BTCHW: Tensor) -> Tensor:
        """uint8 [B, T, 3, H, W] -> float32 [B, D]."""
        ...

    def describe_audio(self, windows_BTN: Tensor) -> Tensor:
        """int16 [B, T, N] -> float32 [B, D]."""
        ...


@dataclass(frozen=True)
class TowerFeatures:
    """What a run's towers give before their heads.

    Attributes:
        model: the towers, in evaluation mode.
        device: where they compute.
    """

    model: Retriever
    device: torch.device

    @classmethod
    def of_run(cls, run: str, device: torch.device) -> Self:
        """The towers of a run of pretrain (both are its encoder) or of finetune.

        Raises:
            CheckpointError: missing or damaged.
        """
        card, weights = checkpoint.load_card(run, "retriever", "mae"), checkpoint.load_weights(run)
        model = _towers(card, seed=0)
        if card.kind == "mae":
            model.start_from(weights)
        else:
            model.load_state_dict(weights)
        return cls(model.eval().to(device), device)

    @classmethod
    def untrained(cls, run: str, seed: int, device: torch.device) -> Self:
        """Towers of a run's sizes as they are before any training."""
        return cls(_towers(checkpoint.load_card(run), seed).eval().to(device), device)

    def describe_video(self, pixels_BTCHW: Tensor) -> Tensor:
        return self.model.features("video", self.model.frontend.video(pixels_BTCHW.to(self.device))).cpu()

    def describe_audio(self, windows_BTN: Tensor) -> Tensor:
        return self.model.features("audio", self.model.frontend.audio(windows_BTN.to(self.device))).cpu()


def _towers(card: Card, seed: int) -> Retriever:
    if card.kind == "mae":
        card = replace(card, kind="retriever", options={"interleave": card.options["interleave"]})
    towers = checkpoint.build(card, seed)
    assert isinstance(towers, Retriever)
    return towers


class PlainStatistics:
    """Means and spreads over time: of every mel band of a sound, of the colours of 4 x 4 fields of a picture.

    What a classifier can do without any network.
    """

    def __init__(self, clip: ClipSettings) -> None:
        self.mel = MelPictures(clip)

    def describe_video(self, pixels_BTCHW: Tensor) -> Tensor:
        fields = functional.adaptive_avg_pool2d(pixels_BTCHW.flatten(0, 1).float() / 255.0, _PICTURE_GRID)
        return _mean_and_spread(fields.reshape(*pixels_BTCHW.shape[:2], -1))

    def describe_audio(self, windows_BTN: Tensor) -> Tensor:
        decibels_BT1HW: Tensor = self.mel(windows_BTN)
        return _mean_and_spread(decibels_BT1HW[:, :, 0].transpose(2, 3).flatten(1, 2))


def _mean_and_spread(values_BTD: Tensor) -> Tensor:
    return torch.cat([values_BTD.mean(1), values_BTD.std(1, correction=0)], dim=1)


class _SideBySide:
    """Several describers as one `Encoder`, so that films are decoded once; `widths` says whose columns are whose."""

    id, path, dim = "features", "", 0

    def __init__(self, describers: Mapping[str, Describer], clip: ClipSettings) -> None:
        self.describers, self.clip = describers, clip
        self.widths: dict[str, list[int]] = {}

    @torch.inference_mode()
    def embed_video(self, pixels_BTCHW: Tensor) -> Embedding:
        return self._joined("video", [each.describe_video(pixels_BTCHW) for each in self.describers.values()])

    @torch.inference_mode()
    def embed_audio(self, windows_BTN: Tensor) -> Embedding:
        return self._joined("audio", [each.describe_audio(windows_BTN) for each in self.describers.values()])

    def _joined(self, sense: str, parts: list[Tensor]) -> Embedding:
        self.widths[sense] = [part.shape[1] for part in parts]
        features_BD = torch.cat(parts, dim=1)
        return Embedding(features_BD, features_BD.unsqueeze(1))


@dataclass(frozen=True)
class FileFeatures:
    """What was found of the files that can be used.

    Attributes:
        columns: features [F, D] of each describer, by name.
        used: which files they are, by number.
        short: how many of them are shorter than a clip; their one clip is as long as they are.
    """

    columns: dict[str, NDArray[np.float64]]
    used: list[int]
    short: int


def file_features(
    entries: Sequence[Entry],
    describers: Mapping[str, Describer],
    clip: ClipSettings,
    task: str,
    *,
    clips: int,
    workers: int,
    file_seconds: float,
    skips: SkipReport,
    progress: Progress,
) -> FileFeatures:
    """Features of files.

    Args:
        entries: files.
        describers: by name.
        clip: geometry of a clip.
        task: audio, video, or audiovisual (both, one behind the other; a sense that is missing gives zeros).
        clips: of each file.
        workers, file_seconds: of decoding.
        skips: told about the others.
        progress: told about every file.
    """
    senses = SENSES_OF_TASK[task]
    encoder = _SideBySide(describers, clip)
    found: dict[int, dict[str, NDArray[np.float64]]] = {}
    short = 0
    for film in embed_moments(
        entries,
        encoder,
        workers=workers,
        file_seconds=file_seconds,
        picture="video" in senses,
        sound="audio" in senses,
        even=clips,
        progress=progress,
    ):
        skip = film.skip()
        if skip is not None:
            skips.add_skip(skip)
        means = {}
        for sense in senses:
            vectors = [getattr(moment, sense) for moment in film.moments if getattr(moment, sense) is not None]
            if vectors:
                means[sense] = np.stack(vectors).astype(np.float64).mean(axis=0)
        if means:
            found[film.number] = means
            short += film.moments[0].span.duration_seconds < clip.clip_seconds - SLACK_SECONDS
    used = sorted(found)
    columns: dict[str, list[NDArray[np.float64]]] = {name: [] for name in describers}
    for sense, widths in encoder.widths.items():
        rows = np.stack([found[number].get(sense, np.zeros(sum(widths))) for number in used])
        for name, part in zip(describers, np.split(rows, np.cumsum(widths)[:-1], axis=1), strict=True):
            columns[name].append(part)
    joined = {name: np.concatenate(parts, axis=1) for name, parts in columns.items() if parts}
    return FileFeatures(joined, used, short)
