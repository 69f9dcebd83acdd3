"""Features of files for a linear probe: those of frozen towers, and plain statistics as a baseline.

Several clips are taken evenly over a file, with a center crop of the frames. The features of a file are the mean over its clips.
For a linear classifier that equals the mean of the clips' logits, the multi-clip protocol of Kinetics (arXiv 1711.07971, 4.1).

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
from cmmixer.checkpoint import Metadata
from cmmixer.config import ClipSettings
from cmmixer.data.manifest import Entry
from cmmixer.data.skips import SkipReport
from cmmixer.embedding.pipeline import embed_moments
from cmmixer.media.mel import MelSpectrogram
from cmmixer.media.timeline import SLACK_SECONDS
from cmmixer.models.retriever import Embedding, Retriever
from cmmixer.progress import Progress

# Side of the grid of mean colors that describes a frame.
_FRAME_GRID = 4
MODALITIES_OF_TASK = {"audio": ("audio",), "video": ("video",), "audiovisual": ("video", "audio")}


class Describer(Protocol):
    """Computes features of clips."""

    def describe_video(self, pixels_BTCHW: Tensor) -> Tensor:
        """Maps uint8 [B, T, 3, H, W] to float32 [B, D]."""
        ...

    def describe_audio(self, windows_BTN: Tensor) -> Tensor:
        """Maps int16 [B, T, N] to float32 [B, D]."""
        ...


@dataclass(frozen=True)
class TowerFeatures:
    """Features of a run's towers, before their heads.

    Attributes:
        model: the towers, in evaluation mode.
        device: the towers' device.
    """

    model: Retriever
    device: torch.device

    @classmethod
    def of_run(cls, run: str, device: torch.device) -> Self:
        """Loads the towers of a run of finetune, or of pretrain (both towers are its encoder).

        Raises:
            CheckpointError: the run is missing or damaged.
        """
        metadata, weights = checkpoint.load_metadata(run, "retriever", "mae"), checkpoint.load_weights(run)
        model = _towers(metadata, seed=0)
        if metadata.kind == "mae":
            model.load_pretrained_encoder(weights)
        else:
            model.load_state_dict(weights)
        return cls(model.eval().to(device), device)

    @classmethod
    def untrained(cls, run: str, seed: int, device: torch.device) -> Self:
        """Initializes untrained towers of the same size as a run's."""
        return cls(_towers(checkpoint.load_metadata(run), seed).eval().to(device), device)

    def describe_video(self, pixels_BTCHW: Tensor) -> Tensor:
        return self.model.features("video", self.model.frontend.video(pixels_BTCHW.to(self.device))).cpu()

    def describe_audio(self, windows_BTN: Tensor) -> Tensor:
        return self.model.features("audio", self.model.frontend.audio(windows_BTN.to(self.device))).cpu()


def _towers(metadata: Metadata, seed: int) -> Retriever:
    if metadata.kind == "mae":
        metadata = replace(metadata, kind="retriever", options={"interleave": metadata.options["interleave"]})
    towers = checkpoint.build(metadata, seed)
    assert isinstance(towers, Retriever)
    return towers


class PlainStatistics:
    """Means and standard deviations over time: of every mel band of the audio, of the colors of 4 x 4 fields of the frames.

    They show what a classifier can do without any network.
    """

    def __init__(self, clip: ClipSettings) -> None:
        self.mel = MelSpectrogram(clip)

    def describe_video(self, pixels_BTCHW: Tensor) -> Tensor:
        fields = functional.adaptive_avg_pool2d(pixels_BTCHW.flatten(0, 1).float() / 255.0, _FRAME_GRID)
        return _mean_and_std(fields.reshape(*pixels_BTCHW.shape[:2], -1))

    def describe_audio(self, windows_BTN: Tensor) -> Tensor:
        decibels_BT1HW: Tensor = self.mel(windows_BTN)
        return _mean_and_std(decibels_BT1HW[:, :, 0].transpose(2, 3).flatten(1, 2))


def _mean_and_std(values_BTD: Tensor) -> Tensor:
    return torch.cat([values_BTD.mean(1), values_BTD.std(1, correction=0)], dim=1)


class _SideBySide:
    """Several describers as one `Encoder`, so that videos are decoded once. `widths` holds the columns of each."""

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

    def _joined(self, modality: str, parts: list[Tensor]) -> Embedding:
        self.widths[modality] = [part.shape[1] for part in parts]
        features_BD = torch.cat(parts, dim=1)
        return Embedding(features_BD, features_BD.unsqueeze(1))


@dataclass(frozen=True)
class FileFeatures:
    """Features of the files that can be used.

    Attributes:
        columns: features [F, D] of each describer, by name.
        used: numbers of these files.
        short: how many of them are shorter than a clip; they are described by one clip of their own length.
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
    """Computes the features of files.

    Args:
        entries: the files.
        describers: by name.
        clip: geometry of a clip.
        task: audio, video, or audiovisual (both, concatenated; a missing modality gives zeros).
        clips: number of clips per file.
        workers, file_seconds: of decoding.
        skips: receives the files that cannot be used.
        progress: advanced once per file.
    """
    modalities = MODALITIES_OF_TASK[task]
    encoder = _SideBySide(describers, clip)
    found: dict[int, dict[str, NDArray[np.float64]]] = {}
    short = 0
    for video in embed_moments(
        entries,
        encoder,
        workers=workers,
        file_seconds=file_seconds,
        video="video" in modalities,
        audio="audio" in modalities,
        even=clips,
        progress=progress,
    ):
        skip = video.skip()
        if skip is not None:
            skips.add_skip(skip)
        means = {}
        for modality in modalities:
            vectors = [getattr(moment, modality) for moment in video.moments if getattr(moment, modality) is not None]
            if vectors:
                means[modality] = np.stack(vectors).astype(np.float64).mean(axis=0)
        if means:
            found[video.number] = means
            short += video.moments[0].span.duration_seconds < clip.clip_seconds - SLACK_SECONDS
    used = sorted(found)
    columns: dict[str, list[NDArray[np.float64]]] = {name: [] for name in describers}
    for modality, widths in encoder.widths.items():
        rows = np.stack([found[number].get(modality, np.zeros(sum(widths))) for number in used])
        for name, part in zip(describers, np.split(rows, np.cumsum(widths)[:-1], axis=1), strict=True):
            columns[name].append(part)
    joined = {name: np.concatenate(parts, axis=1) for name, parts in columns.items() if parts}
    return FileFeatures(joined, used, short)
