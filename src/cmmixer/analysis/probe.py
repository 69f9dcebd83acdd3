"""`cmmixer probe`: a classifier on a run's towers, beside one on untrained towers and one on plain statistics.

Files shorter than a clip, told before anything is learnt: their clips would not be as long as the others'.
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
    SENSES_OF_TASK,
    Describer,
    FileFeatures,
    PlainStatistics,
    TowerFeatures,
    file_features,
)
from cmmixer.analysis.labels import Labelled, read_labelled
from cmmixer.analysis.linear_probe import cross_validated, figures
from cmmixer.analysis.plots import confusion_picture
from cmmixer.analysis.probe_finetune import Finetuning
from cmmixer.checkpoint import Card
from cmmixer.config import ClipSettings, ProbeSettings
from cmmixer.data.clips import entry_seconds
from cmmixer.data.manifest import Entry
from cmmixer.data.memmap import spool_clips
from cmmixer.data.skips import SkipReport
from cmmixer.errors import DataError, SettingsError
from cmmixer.media.timeline import SLACK_SECONDS
from cmmixer.progress import NoProgress, Progress
from cmmixer.runtime import device_named, machine
from cmmixer.storage.files import explain_full_disk, write_atomically


def check_lengths(
    settings: ProbeSettings, labelled: Labelled, clip: ClipSettings, skips: SkipReport, progress: Progress
) -> Labelled:
    """The files to go on with. Longer files than a clip are no matter: several clips of each are averaged.

    Args:
        settings: of the command; `short` says what to do with short files.
        labelled: all files.
        clip: geometry of a clip.
        skips: told about those that are left out.
        progress: told about every file.

    Raises:
        DataError: files are shorter than a clip and to be refused, all are, or too few of a class are left.
    """
    if settings.short == "use":
        return labelled
    entries = labelled.entries
    progress.start(len(entries), "lengths of files")
    seconds = entry_seconds(entries, workers=settings.workers, file_seconds=settings.file_seconds, progress=progress)
    least = clip.clip_seconds - SLACK_SECONDS
    short = {row: found for row, found in enumerate(seconds) if found is not None and found < least}
    if not short:
        return labelled
    first = min(short)
    range_words = f"; all of them {min(short.values()):.2f} to {max(short.values()):.2f} s" if len(short) > 1 else ""
    told = (
        f"{settings.data}: {len(short)} of {len(entries)} files {'is' if len(short) == 1 else 'are'} shorter than a clip of this model, "
        f"{clip.clip_seconds:g} s, such as {entries[first].name} ({short[first]:.2f} s{range_words})"
    )
    if settings.short == "refuse":
        raise DataError(
            f"{told}; --short use takes each as one clip of its own length, --short skip leaves them out, or probe a model of shorter clips"
        )
    kept = [row for row in range(len(entries)) if row not in short]
    if not kept:
        raise DataError(f"{told}; none is left")
    for row, found in short.items():
        skips.add(entries[row].path, "too-short", f"it lasts {found:.2f} s, a clip takes {clip.clip_seconds:g} s")
    labelled = labelled.rows(kept)
    labelled.check(settings.data)
    return labelled


WORDS = {
    "linear": {
        "trained": "this run's towers",
        "untrained": "the same towers, untrained",
        "statistics": "means and spreads, no network",
    },
    "finetune": {
        "trained": "this run's towers, trained on",
        "untrained": "the same towers, from scratch",
        "statistics": "means and spreads, no network",
    },
}


@dataclass(frozen=True)
class ProbeReport:
    """What a probe found.

    Attributes:
        result: JSON values: `trained`, `untrained` and `statistics`, each as `probing.classify.figures` gives them, with the
            task, the data, the classes and the chance level.
        skips: files that could not be used.
    """

    result: dict[str, Any]
    skips: SkipReport

    def as_json(self) -> dict[str, Any]:
        """The figures."""
        return self.result

    def render(self) -> RenderableType:
        """A table of the three against guessing, and of every class."""
        result, name = self.result, self.result["metric"]
        table = Table(
            title=f"{result['task']}: {result['files']} files, {len(result['folds'])} folds", title_justify="left"
        )
        for column in ("features", name, "95 %"):
            table.add_column(column, justify="left" if column == "features" else "right")
        for kind, words in WORDS[result["mode"]].items():
            low, high = result[kind]["interval"]
            table.add_row(words, f"{result[kind][name]:.3f}", f"{low:.3f} – {high:.3f}")
        table.add_row("guessing", f"{result['chance']:.3f}", "")
        classes = Table(title=f"{WORDS[result['mode']]['trained']}, class by class", title_justify="left")
        columns = list(next(iter(result["trained"]["classes"].values())))
        for column in ("class", *columns):
            classes.add_column(column.replace("_", " "), justify="left" if column == "class" else "right")
        for label, values in result["trained"]["classes"].items():
            told = [str(values[column]) if column == "files" else f"{values[column]:.2f}" for column in columns]
            classes.add_row(label, *told)
        notes = [f"written to {result['out']}"]
        if result["short"]:
            notes.append(f"{result['short']} files are shorter than a clip; each is one clip of its own length")
        if self.skips.total:
            notes.append(self.skips.summary)
        return Group(table, classes, *notes)


def probe(settings: ProbeSettings, progress: Progress | None = None) -> ProbeReport:
    """Cross-validates classifiers on labelled files.

    Args:
        settings: of the command.
        progress: told how it goes on.

    Raises:
        InputError: the model, the data, its labels or its folds cannot be used.
    """
    progress = progress or NoProgress()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise SettingsError("probe: got several processes from torchrun, works in one; start it without torchrun")
    labelled = read_labelled(
        settings.data,
        label=settings.label,
        fold=settings.fold,
        source=settings.source,
        folds=settings.folds,
        seed=settings.seed,
    )
    device = device_named(settings.device)
    card = checkpoint.load_card(settings.model, "retriever", "mae")
    skips = SkipReport()
    labelled = check_lengths(settings, labelled, card.clip, skips, progress)
    out = Path(settings.out)
    with explain_full_disk(out, DataError):
        out.mkdir(parents=True, exist_ok=True)
    probed = (_linear if settings.mode == "linear" else _finetuned)(settings, labelled, card, device, skips, progress)
    found = {}
    for kind, scores_FC in probed.scores.items():
        found[kind] = figures(scores_FC, probed.labelled, resamplings=settings.bootstrap, seed=settings.seed)
    result = {
        "task": settings.task,
        "mode": settings.mode,
        "metric": "mAP" if labelled.several else "accuracy",
        **found,
        "chance": _chance(probed.labelled),
        "data": settings.data,
        "files": len(probed.labelled.entries),
        "clips": settings.clips,
        "short": probed.short,
        "skipped": probed.skips.total,
        "folds": labelled.fold_names,
        "model": settings.model,
        "model_id": card.model_id,
        "kind": card.kind,
        "out": settings.out,
        "machine": machine(),
    }
    _write(out, result, probed.skips)
    return ProbeReport(result, probed.skips)


@dataclass(frozen=True)
class _Probed:
    """Scores [F, C] of the files that could be used, by what gave them."""

    labelled: Labelled
    scores: dict[str, NDArray[np.float64]]
    skips: SkipReport
    short: int


def _linear(
    settings: ProbeSettings,
    labelled: Labelled,
    card: Card,
    device: torch.device,
    skips: SkipReport,
    progress: Progress,
) -> _Probed:
    describers: dict[str, Describer] = {
        "trained": TowerFeatures.of_run(settings.model, device),
        "untrained": TowerFeatures.untrained(settings.model, settings.seed, device),
        "statistics": PlainStatistics(card.clip),
    }
    found = _features(settings, labelled.entries, describers, card, skips, progress)
    labelled = _usable(settings, labelled, found.used, skips)
    scores = {}
    for kind, features_FD in found.columns.items():
        progress.start(None, f"classifying by {WORDS['linear'][kind]}")
        scores[kind] = cross_validated(features_FD, labelled)
    return _Probed(labelled, scores, skips, found.short)


def _finetuned(
    settings: ProbeSettings,
    labelled: Labelled,
    card: Card,
    device: torch.device,
    skips: SkipReport,
    progress: Progress,
) -> _Probed:
    senses = SENSES_OF_TASK[settings.task]
    starts = {
        "trained": TowerFeatures.of_run(settings.model, torch.device("cpu")).model,
        "untrained": TowerFeatures.untrained(settings.model, settings.seed, torch.device("cpu")).model,
    }
    with tempfile.TemporaryDirectory(prefix=".clips-", dir=settings.out) as folder:
        progress.start(len(labelled.entries), "decoding clips")
        clips = spool_clips(
            labelled.entries,
            card.clip,
            Path(folder),
            even=settings.clips,
            picture="video" in senses,
            sound="audio" in senses,
            workers=settings.workers,
            file_seconds=settings.file_seconds,
            progress=progress,
        )
        for skip in clips.skips:
            skips.add_skip(skip)
        used = np.unique(clips.files_R)
        labelled = _usable(settings, labelled, used.tolist(), skips)
        # From here on files are numbered among those that can be used.
        clips = replace(clips, files_R=np.searchsorted(used, clips.files_R))
        finetuning = Finetuning(settings, labelled, clips, senses, card, progress)
        scores = {kind: finetuning.scores(towers, kind) for kind, towers in starts.items()}
        short = len(np.unique(clips.files_R[clips.is_short]))
    plain: dict[str, Describer] = {"statistics": PlainStatistics(card.clip)}
    found = _features(settings, labelled.entries, plain, card, SkipReport(), progress)
    scores["statistics"] = cross_validated(found.columns["statistics"], labelled)
    return _Probed(labelled, scores, skips, short)


def _features(
    settings: ProbeSettings,
    entries: Sequence[Entry],
    describers: dict[str, Describer],
    card: Card,
    skips: SkipReport,
    progress: Progress,
) -> FileFeatures:
    progress.start(len(entries), "features of films")
    return file_features(
        entries,
        describers,
        card.clip,
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
    """Accuracy of always naming the largest class, or the mAP of random scores: the mean part of files a class has."""
    parts_C = labelled.truth_FC.mean(0)
    return float(parts_C.mean() if labelled.several else parts_C.max())


def _write(out: Path, result: dict[str, Any], skips: SkipReport) -> None:
    with explain_full_disk(out, DataError):
        write_atomically(out / "probe.json", json.dumps(result, indent=1) + "\n")
        skips.write(out)
        confusion = result["trained"].get("confusion")
        if confusion is not None:
            picture = confusion_picture(np.array(confusion), list(result["trained"]["classes"]))
            write_atomically(out / "confusion.png", picture)
