"""`cmmixer probe`: cross-validated classifiers on a run's towers, on untrained towers and on plain statistics.

Letters: F files, C classes, D features.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Group, RenderableType
from rich.table import Table

from cmmixer import checkpoint
from cmmixer.analysis.features import (
    MODALITIES_OF_TASK,
    Describer,
    FileFeatures,
    PlainStatistics,
    TowerFeatures,
    file_features,
)
from cmmixer.analysis.labels import Labelled, read_labelled
from cmmixer.analysis.linear_probe import cross_validated, probe_metrics
from cmmixer.analysis.plots import confusion_plot
from cmmixer.analysis.probe_finetune import Finetuning
from cmmixer.checkpoint import Metadata
from cmmixer.config import ClipSettings, ProbeSettings
from cmmixer.config.fields import accepts_settings
from cmmixer.data.manifest import Entry
from cmmixer.data.memmap import decode_to_memmap
from cmmixer.data.segments import stretch_seconds
from cmmixer.data.skips import SkipReport
from cmmixer.errors import DataError, SettingsError
from cmmixer.media.timeline import SLACK_SECONDS
from cmmixer.progress import NoProgress, Progress
from cmmixer.runtime import describe_machine, select_device
from cmmixer.storage.files import explain_full_disk, write_atomically

FEATURE_NAMES = {
    "linear": {
        "trained": "towers of this run",
        "untrained": "untrained towers (baseline)",
        "statistics": "plain statistics, no network",
    },
    "finetune": {
        "trained": "towers of this run, fine-tuned",
        "untrained": "no pre-training (baseline)",
        "statistics": "plain statistics, no network",
    },
}


@dataclass(frozen=True)
class ProbeReport:
    """Results of a probe.

    Attributes:
        result: JSON values: `trained`, `untrained` and `statistics`, each with the values of `linear_probe.probe_metrics`, and the
            task, the data, the classes and the chance level.
        skips: files that could not be used.
    """

    result: dict[str, Any]
    skips: SkipReport

    def as_json(self) -> dict[str, Any]:
        """Returns the results."""
        return self.result

    def render(self) -> RenderableType:
        """Returns a table of the three kinds of features next to chance, and a table of the classes."""
        result, name = self.result, self.result["metric"]
        table = Table(
            title=f"{result['task']}: {result['files']} files, {len(result['folds'])} folds", title_justify="left"
        )
        for column in ("features", name, "95 %"):
            table.add_column(column, justify="left" if column == "features" else "right")
        for kind, label in FEATURE_NAMES[result["mode"]].items():
            low, high = result[kind]["interval"]
            table.add_row(label, f"{result[kind][name]:.3f}", f"{low:.3f} – {high:.3f}")
        table.add_row("chance", f"{result['chance']:.3f}", "")
        classes = Table(title=f"{FEATURE_NAMES[result['mode']]['trained']}, by class", title_justify="left")
        columns = list(next(iter(result["trained"]["classes"].values())))
        for column in ("class", *columns):
            classes.add_column(column.replace("_", " "), justify="left" if column == "class" else "right")
        for label, values in result["trained"]["classes"].items():
            cells = [str(values[column]) if column == "files" else f"{values[column]:.2f}" for column in columns]
            classes.add_row(label, *cells)
        notes = [f"written to {result['out']}"]
        if result["short"]:
            notes.append(
                f"{result['short']} files are shorter than a clip; each was taken as one clip of its own length"
            )
        if self.skips.total:
            notes.append(self.skips.summary)
        return Group(table, classes, *notes)


@accepts_settings(ProbeSettings)
def probe(settings: ProbeSettings, progress: Progress | None = None) -> ProbeReport:
    """Cross-validates classifiers on labelled files and writes the results into a folder.

    Args:
        settings: of the command.
        progress: receives the progress.

    Raises:
        InputError: the model, the data, its labels or its folds cannot be used.
    """
    progress = progress or NoProgress()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise SettingsError("probe: got several processes from torchrun, expected one; start it without torchrun")
    labelled = read_labelled(
        settings.data,
        label=settings.label,
        fold=settings.fold,
        source=settings.source,
        folds=settings.folds,
        seed=settings.seed,
    )
    device = select_device(settings.device)
    metadata = checkpoint.load_metadata(settings.model, "retriever", "mae")
    skips = SkipReport()
    labelled = check_lengths(settings, labelled, metadata.clip, skips, progress)
    out = Path(settings.out)
    with explain_full_disk(out, DataError):
        out.mkdir(parents=True, exist_ok=True)
    run_probe = _probe_linear if settings.mode == "linear" else _probe_finetuned
    probed = run_probe(settings, labelled, metadata, device, skips, progress)
    by_features = {}
    for kind, scores_FC in probed.scores.items():
        by_features[kind] = probe_metrics(
            scores_FC, probed.labelled, resamplings=settings.bootstrap, seed=settings.seed
        )
    result = {
        "task": settings.task,
        "mode": settings.mode,
        "metric": "mAP" if labelled.several else "accuracy",
        **by_features,
        "chance": _chance(probed.labelled),
        "data": settings.data,
        "files": len(probed.labelled.entries),
        "clips": settings.clips,
        "short": probed.short,
        "skipped": probed.skips.total,
        "folds": labelled.fold_names,
        "model": settings.model,
        "model_id": metadata.model_id,
        "kind": metadata.kind,
        "out": settings.out,
        "machine": describe_machine(),
    }
    _write(out, result, probed.skips)
    return ProbeReport(result, probed.skips)


def check_lengths(
    settings: ProbeSettings, labelled: Labelled, clip: ClipSettings, skips: SkipReport, progress: Progress
) -> Labelled:
    """Handles files that are shorter than a clip, as `settings.short` says. Longer files are fine: several clips are averaged.

    Args:
        settings: of the command.
        labelled: all files.
        clip: geometry of a clip.
        skips: receives the files that are left out.
        progress: advanced once per file.

    Returns:
        The files to use.

    Raises:
        DataError: there are short files and they are refused, all files are short, or too few of a class are left.
    """
    if settings.short == "use":
        return labelled
    entries = labelled.entries
    progress.start(len(entries), "reading lengths of files")
    seconds = stretch_seconds(entries, workers=settings.workers, file_seconds=settings.file_seconds, progress=progress)
    least = clip.clip_seconds - SLACK_SECONDS
    short = {row: length for row, length in enumerate(seconds) if length is not None and length < least}
    if not short:
        return labelled
    first = min(short)
    lengths = f"; all of them {min(short.values()):.2f} to {max(short.values()):.2f} s" if len(short) > 1 else ""
    message = (
        f"{settings.data}: {len(short)} of {len(entries)} files {'is' if len(short) == 1 else 'are'} shorter than a clip of this model, "
        f"{clip.clip_seconds:g} s, such as {entries[first].name} ({short[first]:.2f} s{lengths})"
    )
    if settings.short == "refuse":
        raise DataError(
            f"{message}; use --short use to take each as one clip of its own length, --short skip to leave them out, or a model of shorter clips"
        )
    long_enough = [row for row in range(len(entries)) if row not in short]
    if not long_enough:
        raise DataError(f"{message}; none is left")
    for row, length in short.items():
        skips.add(entries[row].path, "too-short", f"it lasts {length:.2f} s, a clip takes {clip.clip_seconds:g} s")
    labelled = labelled.rows(long_enough)
    labelled.check(settings.data)
    return labelled


@dataclass(frozen=True)
class _Probed:
    """Scores [F, C] of the files that could be used, by the kind of features."""

    labelled: Labelled
    scores: dict[str, NDArray[np.float64]]
    skips: SkipReport
    short: int


def _probe_linear(
    settings: ProbeSettings,
    labelled: Labelled,
    metadata: Metadata,
    device: torch.device,
    skips: SkipReport,
    progress: Progress,
) -> _Probed:
    describers: dict[str, Describer] = {
        "trained": TowerFeatures.of_run(settings.model, device),
        "untrained": TowerFeatures.untrained(settings.model, settings.seed, device),
        "statistics": PlainStatistics(metadata.clip),
    }
    found = _features(settings, labelled.entries, describers, metadata, skips, progress)
    labelled = _usable(settings, labelled, found.used, skips)
    scores = {}
    for kind, features_FD in found.columns.items():
        progress.start(None, f"classifying by {FEATURE_NAMES['linear'][kind]}")
        scores[kind] = cross_validated(features_FD, labelled)
    return _Probed(labelled, scores, skips, found.short)


def _probe_finetuned(
    settings: ProbeSettings,
    labelled: Labelled,
    metadata: Metadata,
    device: torch.device,
    skips: SkipReport,
    progress: Progress,
) -> _Probed:
    modalities = MODALITIES_OF_TASK[settings.task]
    starts = {
        "trained": TowerFeatures.of_run(settings.model, torch.device("cpu")).model,
        "untrained": TowerFeatures.untrained(settings.model, settings.seed, torch.device("cpu")).model,
    }
    with tempfile.TemporaryDirectory(prefix=".clips-", dir=settings.out) as folder:
        progress.start(len(labelled.entries), "decoding clips")
        clips = decode_to_memmap(
            labelled.entries,
            metadata.clip,
            Path(folder),
            even=settings.clips,
            video="video" in modalities,
            audio="audio" in modalities,
            workers=settings.workers,
            file_seconds=settings.file_seconds,
            progress=progress,
        )
        for skip in clips.skips:
            skips.add_skip(skip)
        used = np.unique(clips.files_R)
        labelled = _usable(settings, labelled, used.tolist(), skips)
        # From here on, files are numbered among the usable ones.
        clips = replace(clips, files_R=np.searchsorted(used, clips.files_R))
        finetuning = Finetuning(settings, labelled, clips, modalities, metadata, progress)
        scores = {kind: finetuning.scores(towers, kind) for kind, towers in starts.items()}
        short = len(np.unique(clips.files_R[clips.is_short]))
    plain: dict[str, Describer] = {"statistics": PlainStatistics(metadata.clip)}
    found = _features(settings, labelled.entries, plain, metadata, SkipReport(), progress)
    scores["statistics"] = cross_validated(found.columns["statistics"], labelled)
    return _Probed(labelled, scores, skips, short)


def _features(
    settings: ProbeSettings,
    entries: Sequence[Entry],
    describers: dict[str, Describer],
    metadata: Metadata,
    skips: SkipReport,
    progress: Progress,
) -> FileFeatures:
    progress.start(len(entries), "computing features")
    return file_features(
        entries,
        describers,
        metadata.clip,
        settings.task,
        clips=settings.clips,
        workers=settings.workers,
        file_seconds=settings.file_seconds,
        skips=skips,
        progress=progress,
    )


def _usable(settings: ProbeSettings, labelled: Labelled, used: Sequence[int], skips: SkipReport) -> Labelled:
    if not used:
        raise DataError(f"{settings.data}: no file could be used for {settings.task}; {skips.summary}")
    labelled = labelled.rows(used)
    labelled.check(settings.data)
    return labelled


def _chance(labelled: Labelled) -> float:
    """Accuracy of always predicting the largest class, or the mAP of random scores: the mean frequency of the classes."""
    frequency_C = labelled.truth_FC.mean(0)
    return float(frequency_C.mean() if labelled.several else frequency_C.max())


def _write(out: Path, result: dict[str, Any], skips: SkipReport) -> None:
    with explain_full_disk(out, DataError):
        write_atomically(out / "probe.json", json.dumps(result, indent=1) + "\n")
        skips.write(out)
        confusion = result["trained"].get("confusion")
        if confusion is not None:
            plot = confusion_plot(np.array(confusion), list(result["trained"]["classes"]))
            write_atomically(out / "confusion.png", plot)
