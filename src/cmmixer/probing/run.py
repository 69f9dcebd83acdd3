"""`cmmixer probe`: a linear classifier on a run's features, beside one on untrained towers and one on plain statistics."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table

from cmmixer import checkpoint
from cmmixer.atomic import explain_full_disk, write_atomically
from cmmixer.config import ProbeSettings
from cmmixer.data.skips import SkipReport
from cmmixer.embedding import device_named
from cmmixer.errors import DataError
from cmmixer.evaluation.machine import machine
from cmmixer.probing.classify import cross_validated, figures
from cmmixer.probing.features import Describer, PlainStatistics, TowerFeatures, file_features
from cmmixer.probing.labelled import Labelled, read_labelled
from cmmixer.progress import NoProgress, Progress
from cmmixer.report.plots import confusion_picture

WORDS = {
    "trained": "this run's towers",
    "untrained": "the same towers, untrained",
    "statistics": "means and spreads, no network",
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
        for kind, words in WORDS.items():
            low, high = result[kind]["interval"]
            table.add_row(words, f"{result[kind][name]:.3f}", f"{low:.3f} – {high:.3f}")
        table.add_row("guessing", f"{result['chance']:.3f}", "")
        classes = Table(title="this run's towers, class by class", title_justify="left")
        columns = list(next(iter(result["trained"]["classes"].values())))
        for column in ("class", *columns):
            classes.add_column(column.replace("_", " "), justify="left" if column == "class" else "right")
        for label, values in result["trained"]["classes"].items():
            told = [str(values[column]) if column == "files" else f"{values[column]:.2f}" for column in columns]
            classes.add_row(label, *told)
        notes = [f"written to {result['out']}"]
        if self.skips.total:
            notes.append(self.skips.summary)
        return Group(table, classes, *notes)


def probe(settings: ProbeSettings, progress: Progress | None = None) -> ProbeReport:
    """Cross-validates linear classifiers on labelled files.

    Args:
        settings: of the command.
        progress: told how it goes on.

    Raises:
        InputError: the model, the data, its labels or its folds cannot be used.
    """
    progress = progress or NoProgress()
    labelled = read_labelled(
        settings.data,
        label=settings.label,
        fold=settings.fold,
        source=settings.source,
        folds=settings.folds,
        seed=settings.seed,
    )
    device = device_named(settings.device)
    card = checkpoint.load_card(settings.model)
    describers: dict[str, Describer] = {
        "trained": TowerFeatures.of_run(settings.model, device),
        "untrained": TowerFeatures.untrained(settings.model, settings.seed, device),
        "statistics": PlainStatistics(card.clip),
    }
    progress.start(len(labelled.entries), "features of films")
    skips = SkipReport()
    features, used = file_features(
        labelled.entries,
        describers,
        card.clip,
        settings.task,
        workers=settings.workers,
        file_seconds=settings.file_seconds,
        skips=skips,
        progress=progress,
    )
    if not used:
        raise DataError(f"{settings.data}: no file could be used for {settings.task}; {skips.summary}")
    labelled = labelled.rows(used)
    labelled.check(settings.data)
    found = {}
    for kind, features_FD in features.items():
        progress.start(None, f"classifying by {WORDS[kind]}")
        scores_FC = cross_validated(features_FD, labelled)
        found[kind] = figures(scores_FC, labelled, resamplings=settings.bootstrap, seed=settings.seed)
    result = {
        "task": settings.task,
        "metric": "mAP" if labelled.several else "accuracy",
        **found,
        "chance": _chance(labelled),
        "data": settings.data,
        "files": len(labelled.entries),
        "skipped": skips.total,
        "folds": labelled.fold_names,
        "model": settings.model,
        "model_id": card.model_id,
        "kind": card.kind,
        "out": settings.out,
        "machine": machine(),
    }
    _write(settings, result, skips)
    return ProbeReport(result, skips)


def _chance(labelled: Labelled) -> float:
    """Accuracy of always naming the largest class, or the mAP of random scores: the mean part of files a class has."""
    parts_C = labelled.truth_FC.mean(0)
    return float(parts_C.mean() if labelled.several else parts_C.max())


def _write(settings: ProbeSettings, result: dict[str, Any], skips: SkipReport) -> None:
    out = Path(settings.out)
    with explain_full_disk(out, DataError):
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(out / "probe.json", json.dumps(result, indent=1) + "\n")
        skips.write(out)
        confusion = result["trained"].get("confusion")
        if confusion is not None:
            picture = confusion_picture(np.array(confusion), list(result["trained"]["classes"]))
            write_atomically(out / "confusion.png", picture)
