"""`cmmixer evaluate`: embeds the clips of a frozen gallery and ranks them in both directions.

The metrics depend on the clips and the model only, not on batch size, order or device.

Letters: N clips of the gallery, E length of an embedding, T frames of a clip.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Group, RenderableType
from rich.table import Table
from torch.utils.data import DataLoader, Dataset

from cmmixer.config import EvaluateSettings
from cmmixer.config.fields import accepts_settings
from cmmixer.data.dataset import ClipDataset, open_clips
from cmmixer.data.loader import collate
from cmmixer.data.skips import SkipReport
from cmmixer.encoders.base import Encoder
from cmmixer.encoders.loading import load_encoder
from cmmixer.errors import DataError, MediaError
from cmmixer.evaluation.gallery import Gallery, freeze, load_gallery, save_gallery
from cmmixer.evaluation.metrics import Reranks, rankings, retrieval_metrics
from cmmixer.models.rerank import reported_score
from cmmixer.models.retriever import Embedding
from cmmixer.progress import NoProgress, Progress
from cmmixer.storage.files import explain_full_disk, write_atomically
from cmmixer.types import Clip

DIRECTIONS = {"video_to_audio": "silent video -> its sound", "audio_to_video": "sound -> its video"}


class Vectors(NamedTuple):
    """Unit vectors of N clips, [N, E], and of their frames, [N, T, E]; float32."""

    clip_NE: NDArray[np.float32]
    frames_NTE: NDArray[np.float32]

    def rows(self, order_N: NDArray[np.intp]) -> Vectors:
        """Returns the vectors in another order."""
        return Vectors(self.clip_NE[order_N], self.frames_NTE[order_N])


@dataclass(frozen=True)
class Evaluation:
    """Result of an evaluation.

    Attributes:
        metrics: JSON values of `retrieval_metrics`, with `model_id`, `rerank`, `overlap` (videos of the gallery that the model was
            trained on) and `skipped`.
        gallery: the frozen gallery.
        video, audio: unit vectors of the clips and of their frames, in the gallery's order.
        rerank: the second stage, if there is one.
        skips: files that could not be used.
    """

    metrics: dict[str, Any]
    gallery: Gallery
    video: Vectors
    audio: Vectors
    rerank: Reranks | None
    skips: SkipReport

    def scores(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Returns the score of every candidate for every query, [N, N]: with videos as queries, and with sounds."""
        clip_NN = self.video.clip_NE.astype(np.float64) @ self.audio.clip_NE.T.astype(np.float64)
        directions = clip_NN, clip_NN.T.copy()
        if self.rerank is not None:
            truth = np.arange(len(clip_NN))
            for scores_NN, rerank in zip(directions, self.rerank, strict=True):
                rerank(0, scores_NN, truth)
        return directions

    def as_json(self) -> dict[str, Any]:
        """Returns the metrics."""
        return self.metrics

    def render(self) -> RenderableType:
        """Returns a table of both directions beside chance."""
        table = Table(title=f"{len(self.gallery)} candidates, gallery {self.gallery.sha256[:12]}", title_justify="left")
        for column in ("", *DIRECTIONS.values(), "chance"):
            table.add_column(column, justify="right" if column else "left")
        for name, chance in self.metrics["chance"].items():
            cells = [
                _with_interval(name, self.metrics[direction][name], self.metrics["intervals"][direction][name])
                for direction in DIRECTIONS
            ]
            table.add_row(name, *cells, _formatted(chance, name))
        notes = [self.skips.summary] if len(self.skips) else []
        if self.metrics["overlap"]:
            notes.append(
                f"note: the model was trained on {self.metrics['overlap']} videos of this gallery, so these metrics are too high"
            )
        return Group(table, *notes)


@accepts_settings(EvaluateSettings)
def evaluate(
    settings: EvaluateSettings, progress: Progress | None = None, dataset: ClipDataset | None = None
) -> Evaluation:
    """Embeds the clips of a gallery and ranks them in both directions.

    Args:
        settings: settings of the command.
        progress: shows the progress.
        dataset: the clips; default: those in `settings.data`.

    Raises:
        InputError: the model, the data or the gallery cannot be used.
    """
    progress = progress or NoProgress()
    encoder = load_encoder(settings.model, settings.device)
    if dataset is None:
        dataset = open_clips(settings, encoder.clip, workers=settings.num_workers, progress=progress)
    gallery = load_gallery(settings.gallery) if settings.gallery and Path(settings.gallery).exists() else None
    chosen = gallery.positions(dataset.ids) if gallery else choose_clips(dataset.ids, settings.clips_per_video)
    progress.start(len(chosen), "embedding the gallery")
    video, audio, used, skips = _embed(encoder, dataset, chosen, settings, progress)
    if gallery is None:
        gallery = freeze(dataset.ids[position] for position in used)
        if settings.gallery:
            save_gallery(gallery, settings.gallery)
    elif len(skips):
        raise DataError(f"{settings.gallery}: {len(skips)} of its clips can no longer be decoded: {skips.summary}")
    order = np.argsort([dataset.ids[position] for position in used], kind="stable")
    video, audio = video.rows(order), audio.rows(order)
    rerank = None
    if settings.rerank == "sequence":
        rerank = Reranks.of(video.frames_NTE, audio.frames_NTE, settings.rerank_top)
    metrics = retrieval_metrics(
        video.clip_NE, audio.clip_NE, gallery=gallery.sha256, resamplings=settings.bootstrap, seed=settings.seed,
        rerank=rerank,
    )  # fmt: skip
    trained_on = _trained_on(Path(settings.model))
    metrics |= {
        "model_id": encoder.id,
        "rerank": None if rerank is None else {"by": settings.rerank, "top": settings.rerank_top},
        "overlap": len({dataset.sources[position] for position in used} & trained_on),
        "skipped": len(skips) + len(dataset.skips),
    }
    evaluation = Evaluation(metrics, gallery, video, audio, rerank, SkipReport([*dataset.skips, *skips]))
    _write(settings, evaluation)
    return evaluation


def choose_clips(ids: Sequence[str], clips_per_video: int) -> list[int]:
    """Returns the positions of the clips for a gallery: `clips_per_video` of each video, evenly spaced; 0 takes all."""
    if clips_per_video == 0:
        return list(range(len(ids)))
    videos: dict[str, list[int]] = {}
    for position, clip_id in enumerate(ids):
        videos.setdefault(clip_id.rpartition("#")[0] or clip_id, []).append(position)
    chosen = []
    for positions in videos.values():
        count = min(clips_per_video, len(positions))
        chosen += [positions[(2 * number + 1) * len(positions) // (2 * count)] for number in range(count)]
    return sorted(chosen)


def _embed(
    encoder: Encoder,
    dataset: ClipDataset,
    chosen: list[int],
    settings: EvaluateSettings,
    progress: Progress,
) -> tuple[Vectors, Vectors, list[int], SkipReport]:
    """Returns the video and audio vectors of the chosen clips, the positions that were decoded, and the files that were not."""
    used: list[int] = []
    skips = SkipReport()
    videos: list[Embedding] = []
    audios: list[Embedding] = []
    for positions, results in _read(dataset, chosen, settings.batch_size, settings.num_workers):
        clips = []
        for position, result in zip(positions, results, strict=True):
            if isinstance(result, MediaError):
                skips.add(result.path, result.reason, result.message)
            else:
                clips.append(result)
                used.append(position)
        if clips:
            batch = collate(clips)
            videos.append(encoder.embed_video(batch.video_BTCHW))
            audios.append(encoder.embed_audio(batch.audio_BTN))
        progress.advance(len(positions))
    if not used:
        raise DataError(f"{settings.data}: no clip could be decoded; {skips.summary}")
    return _concatenate(videos), _concatenate(audios), used, skips


def _concatenate(batches: list[Embedding]) -> Vectors:
    clips = [batch.clip_BE.cpu().numpy() for batch in batches]
    return Vectors(np.concatenate(clips), np.concatenate([batch.frames_BTE.cpu().numpy() for batch in batches]))


def _read(
    dataset: ClipDataset, chosen: list[int], batch_size: int, num_workers: int
) -> Iterator[tuple[list[int], list[Clip | MediaError]]]:
    """Yields the clips in batches, with their positions."""
    batches = [chosen[first : first + batch_size] for first in range(0, len(chosen), batch_size)]
    context = multiprocessing.get_context("forkserver") if num_workers else None
    # A small gallery is read before the workers would have started.
    workers = num_workers if len(batches) > num_workers * 4 else 0
    loader: DataLoader[list[Clip | MediaError]] = DataLoader(
        _Batches(dataset, batches),
        batch_size=None,
        num_workers=workers,
        multiprocessing_context=context if workers else None,
    )
    return zip(batches, loader, strict=True)


class _Batches(Dataset[list[Clip | MediaError]]):
    """Batches of clips, for the processes of a loader."""

    def __init__(self, dataset: ClipDataset, batches: list[list[int]]) -> None:
        self.dataset, self.batches = dataset, batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> list[Clip | MediaError]:
        return self.dataset.read(self.batches[number])


def _trained_on(model: Path) -> set[str]:
    """Returns the sources that the run was trained on, from its `sources.txt`."""
    for folder in (model, *itertools.islice(model.parents, 2)):
        if (folder / "sources.txt").is_file():
            return set((folder / "sources.txt").read_text().splitlines())
    return set()


def _write(settings: EvaluateSettings, evaluation: Evaluation) -> None:
    if settings.out:
        with explain_full_disk(Path(settings.out), DataError):
            Path(settings.out).parent.mkdir(parents=True, exist_ok=True)
            write_atomically(Path(settings.out), json.dumps(evaluation.metrics, indent=1) + "\n")
    if settings.rankings:
        with explain_full_disk(Path(settings.rankings), DataError):
            write_atomically(
                Path(settings.rankings), "".join(f"{json.dumps(row)}\n" for row in ranking_rows(evaluation))
            )


def ranking_rows(evaluation: Evaluation, best: int = 100) -> Iterator[dict[str, Any]]:
    """Yields the rank and the best candidates of every query, with their scores, as JSON values."""
    ids = evaluation.gallery.ids
    for direction, scores_QN in zip(DIRECTIONS, evaluation.scores(), strict=True):
        for query, order in enumerate(rankings(scores_QN)):
            yield {
                "direction": direction,
                "query": ids[query],
                "rank": int(np.flatnonzero(order == query)[0]) + 1,
                "candidates": [
                    [ids[number], round(reported_score(float(scores_QN[query, number])), 6)] for number in order[:best]
                ],
            }


def _formatted(value: float, name: str) -> str:
    return f"{value:.1f}" if name == "MedR" else f"{value:.3f}"


def _with_interval(name: str, value: float, interval: Sequence[float]) -> str:
    low, high = interval
    return f"{_formatted(value, name)} [{_formatted(low, name)}, {_formatted(high, name)}]"
