"""`cmmixer quickstart`: the whole way once, each step a command a user could have typed.

films -> prepare -> pretrain -> finetune (and the same from scratch, as the control) -> evaluate -> index -> search -> report
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from cmmixer.config import (
    EvaluateSettings,
    FinetuneSettings,
    IndexSettings,
    PrepareSettings,
    PretrainSettings,
    QuickstartSettings,
    SearchSettings,
    SynthesizeSettings,
)
from cmmixer.config.base import command_line
from cmmixer.data.manifest import Entry, read_manifest, split_by_source
from cmmixer.data.prepare import prepare
from cmmixer.data.store import ClipStore
from cmmixer.demo.stopwatch import Goes, took
from cmmixer.errors import DataError, InputError, SettingsError
from cmmixer.evaluation.evaluate import Evaluation, evaluate
from cmmixer.progress import NoProgress, Progress
from cmmixer.retrieval.build import index
from cmmixer.retrieval.search import SearchResult, search
from cmmixer.runtime import machine
from cmmixer.storage.files import explain_full_disk, write_atomically
from cmmixer.synthetic.generate import synthesize
from cmmixer.train.finetune import finetune
from cmmixer.train.pretrain import pretrain
from cmmixer.version import __version__

PRESET = "nano"
GALLERY_FILMS = 200
TRAIN_FILMS = 1200
# Clips seen by each training run at scale 1: a short pre-training before a longer contrast is the best row of docs/study.md.
PRETRAIN_VIEWS = 9_600
FINETUNE_VIEWS = 24_000
# Many small steps of moderate size: fewer and larger ones, or a larger step size, gave towers that matched worse than from
# scratch; see the notebook.
PRETRAIN_BATCH = 16
PRETRAIN_LR = 3e-4
# Beta(alpha, alpha) so near its ends that each frame is all picture or all sound: the network must infer one sense from the
# other. It gave the best towers of the mixes that were tried.
WHOLE_FRAMES = 1e-3
FINETUNE_BATCH = 64
FINETUNE_LR = 1e-3
# All clips of a quickstart, decoded, take a quarter of it.
KEEP_GB = 1.0
GALLERY_PART = 0.25
# In the synthetic films size and height say how a body sounds, and a resized crop would change both.
SYNTHETIC_CROP_SCALE = 1.0
MINUTES = "minutes.json"
# What a quickstart makes in its folder, and --overwrite removes.
MADE = (
    "films",
    "stores",
    "pretrain",
    "finetune",
    "scratch",
    "index",
    "gallery.json",
    "metrics.json",
    "report.html",
    "quickstart.json",
    MINUTES,
)
# Films of one's own are cut this densely, since there are few.
OWN_STRIDE_SECONDS = 1.0


@dataclass(frozen=True)
class QuickstartResult:
    """Where things are and how well it went.

    Attributes:
        out: the folder.
        report: the page to open.
        metrics: as written to metrics.json.
        searches: one each way.
    """

    out: Path
    report: Path
    metrics: dict[str, Any]
    searches: list[SearchResult]

    def as_json(self) -> dict[str, Any]:
        """The metrics."""
        return self.metrics

    def render(self) -> RenderableType:
        """A short table against chance, and where to look next."""
        table = Table(title=f"{self.metrics['candidates']} films it had never met", title_justify="left")
        for column in ("first hit is the right one (R@1)", "with pre-training", "from scratch", "guessing"):
            table.add_column(column, justify="left" if not column.endswith(("g", "h")) else "right")
        for way, words in (("video_to_audio", "silent film -> its sound"), ("audio_to_video", "sound -> its film")):
            scratch = self.metrics["from_scratch"][way]["R@1"]
            values = (self.metrics[way]["R@1"], scratch, self.metrics["chance"]["R@1"])
            table.add_row(words, *(f"{value:.3f}" for value in values))
        index_folder, run = self.out / "index", self.out / "finetune"
        return Group(
            table,
            f"took {took(self.metrics)}; open {self.report} in a browser",
            f"then: cmmixer serve --index {index_folder}    (a page to search and listen in)",
            f"      cmmixer search --index {index_folder} YOUR_FILM.mp4 --for audio",
            f"      cmmixer index --model {run} --data YOUR_FOLDER --index library",
        )


@dataclass
class _Plan:
    """What is made, from the scale."""

    settings: QuickstartSettings
    out: Path = field(init=False)
    goes: Goes = field(init=False)
    commands: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.out = Path(self.settings.out)
        self.goes = Goes(self.out / MINUTES)

    def films(self, count: int) -> int:
        return max(8, round(count * self.settings.scale))

    @property
    def crop_scale_min(self) -> float:
        """Strength of the random resized crop."""
        return SYNTHETIC_CROP_SCALE if self.settings.data is None else PretrainSettings.crop_scale_min

    def epochs(self, views: int, clips: int, batch: int) -> int:
        """Epochs that show about so many clips, at least one."""
        per_epoch = clips // batch * batch
        return max(1, round(views * self.settings.scale / per_epoch))

    def note(self, command: str, settings: object) -> None:
        """Writes down the command line that does the same."""
        self.commands.append(command_line(command, settings))


def quickstart(settings: QuickstartSettings, progress: Progress | None = None) -> QuickstartResult:
    """Runs the whole way; finished steps of an earlier call are kept.

    Raises:
        InputError: the films or the folder cannot be used.
    """
    progress = progress or NoProgress()
    with explain_full_disk(Path(settings.out), InputError):
        _enter(Path(settings.out), settings)
    plan = _Plan(settings)
    with plan.goes:
        return _all_steps(plan, progress)


def _all_steps(plan: _Plan, progress: Progress) -> QuickstartResult:
    train_films, gallery_films = _films(plan, progress)
    train, gallery = (
        _prepare(plan, films, name, progress) for films, name in ((train_films, "train"), (gallery_films, "gallery"))
    )
    _pretrain(plan, train, progress)
    _finetune(plan, train, "finetune", str(plan.out / "pretrain"), progress)
    _finetune(plan, train, "scratch", None, progress)
    figures = _evaluate(plan, gallery, "finetune", progress)
    control = _evaluate(plan, gallery, "scratch", progress)
    searches = _search(plan, gallery_films, progress)
    metrics = _metrics(plan, figures, control, train)
    write_atomically(plan.out / "metrics.json", json.dumps(metrics, indent=1) + "\n")
    from cmmixer.demo.report import report_of_quickstart

    progress.start(None, "writing the report")
    page = report_of_quickstart(plan.out, metrics, figures, control, gallery_films, plan.commands)
    return QuickstartResult(plan.out, page, metrics, searches)


def _enter(out: Path, settings: QuickstartSettings) -> None:
    """Makes the folder, or takes up the quickstart that stands there.

    Raises:
        SettingsError: the one that stands there has other settings.
    """
    out.mkdir(parents=True, exist_ok=True)
    card, asked = out / "quickstart.json", {name: getattr(settings, name) for name in ("data", "scale", "seed")}
    if settings.overwrite:
        for name in MADE:
            shutil.rmtree(out / name) if (out / name).is_dir() else (out / name).unlink(missing_ok=True)
    elif card.exists():
        there = json.loads(card.read_text())
        differ = [
            f"{name} {there.get(name)!r} there, {value!r} here"
            for name, value in asked.items()
            if there.get(name) != value
        ]
        if differ:
            raise SettingsError(
                f"{out}: holds a quickstart of other settings: {'; '.join(differ)}; choose another --out, or --overwrite"
            )
    write_atomically(card, json.dumps(asked) + "\n")


def _films(plan: _Plan, progress: Progress) -> tuple[str, str]:
    """Data for training and for the gallery: made, or one's own split by source."""
    settings = plan.settings
    if settings.data is not None:
        return _own_films(plan, settings.data)
    folders = []
    for name, count, seed in (
        ("train", TRAIN_FILMS, 2 * settings.seed + 1),
        ("gallery", GALLERY_FILMS, 2 * settings.seed + 2),
    ):
        films = SynthesizeSettings(
            clips=plan.films(count),
            out=str(plan.out / "films" / name),
            seed=seed,
            difficulty="easy",
            workers=settings.workers,
        )
        plan.note("synthesize", films)
        with plan.goes.timed("synthesize"):
            synthesize(films, progress)
        folders.append(films.out)
    return folders[0], folders[1]


def _own_films(plan: _Plan, data: str) -> tuple[str, str]:
    """Splits one's own films by source, by the `split` the data has, or a quarter for the gallery."""
    entries = read_manifest(data)
    train = [entry for entry in entries if entry.split == "train"]
    gallery = [entry for entry in entries if entry.split in ("gallery", "test", "val")]
    if not (train and gallery):
        train, gallery = split_by_source(entries, GALLERY_PART, plan.settings.seed)
    shared = {entry.source for entry in train} & {entry.source for entry in gallery}
    if shared:
        raise DataError(
            f"{data}: {len(shared)} sources are in both splits, such as {sorted(shared)[0]}; a film must be in one"
        )
    folder = plan.out / "films"
    folder.mkdir(exist_ok=True)
    paths = []
    for name, part in (("train", train), ("gallery", gallery)):
        path = folder / f"{name}.jsonl"
        write_atomically(path, "".join(json.dumps(_row(entry)) + "\n" for entry in part))
        paths.append(str(path))
    return paths[0], paths[1]


def _row(entry: Entry) -> dict[str, Any]:
    values = {
        "path": os.path.abspath(entry.path),
        "audio_path": None if entry.audio_path is None else os.path.abspath(entry.audio_path),
        "start_seconds": entry.start_seconds,
        "end_seconds": entry.end_seconds,
        "label": entry.label,
        "source": entry.source,
    }
    return {name: value for name, value in values.items() if value is not None}


def _prepare(plan: _Plan, films: str, name: str, progress: Progress) -> str:
    own = plan.settings.data is not None
    store = PrepareSettings(
        data=films,
        out=str(plan.out / "stores" / name),
        preset=PRESET,
        stride_seconds=OWN_STRIDE_SECONDS if own and name == "train" else None,
        workers=plan.settings.workers,
    )
    plan.note("prepare", store)
    with plan.goes.timed("prepare"):
        prepare(store, progress)
    return store.out


def _pretrain(plan: _Plan, store: str, progress: Progress) -> None:
    clips = len(ClipStore.open(store))
    batch = min(PRETRAIN_BATCH, clips)
    epochs = plan.epochs(PRETRAIN_VIEWS, clips, batch)
    settings = PretrainSettings(
        data=store,
        out=str(plan.out / "pretrain"),
        preset=PRESET,
        epochs=epochs,
        batch_size=batch,
        lr=PRETRAIN_LR,
        mixup_alpha=WHOLE_FRAMES,
        cutmix_alpha=0.0,
        warmup_epochs=epochs / 10,
        crop_scale_min=plan.crop_scale_min,
        seed=plan.settings.seed,
        num_workers=0,
        keep_gb=KEEP_GB,
        device=plan.settings.device,
        picture_epochs=0,
    )
    plan.note("pretrain", settings)
    with plan.goes.timed("pretrain"):
        pretrain(settings, progress)


def _finetune(plan: _Plan, store: str, name: str, init: str | None, progress: Progress) -> None:
    clips = len(ClipStore.open(store))
    batch = min(FINETUNE_BATCH, clips)
    epochs = plan.epochs(FINETUNE_VIEWS, clips, batch)
    settings = FinetuneSettings(
        data=store,
        out=str(plan.out / name),
        init=init,
        preset=None if init else PRESET,
        epochs=epochs,
        batch_size=batch,
        lr=FINETUNE_LR,
        warmup_epochs=epochs / 10,
        embed_dim=128,
        crop_scale_min=plan.crop_scale_min,
        seed=plan.settings.seed,
        num_workers=0,
        keep_gb=KEEP_GB,
        device=plan.settings.device,
    )
    plan.note("finetune", settings)
    with plan.goes.timed(name):
        finetune(settings, progress)


def _evaluate(plan: _Plan, store: str, name: str, progress: Progress) -> Evaluation:
    settings = EvaluateSettings(
        model=str(plan.out / name),
        data=store,
        gallery=str(plan.out / "gallery.json"),
        rerank="sequence",
        num_workers=0,
        device=plan.settings.device,
        out=str(plan.out / name / "metrics.json"),
        rankings=str(plan.out / name / "rankings.jsonl"),
    )
    plan.note("evaluate", settings)
    with plan.goes.timed("evaluate"):
        return evaluate(settings, progress)


def _search(plan: _Plan, films: str, progress: Progress) -> list[SearchResult]:
    """Indexes the gallery's films and searches them once each way, with a film of theirs."""
    library = IndexSettings(
        model=str(plan.out / "finetune"),
        data=films,
        index=str(plan.out / "index"),
        workers=plan.settings.workers,
        device=plan.settings.device,
    )
    plan.note("index", library)
    with plan.goes.timed("index"):
        index(library, progress)
    query = _a_query(plan, films)
    results = []
    for target in ("audio", "video"):
        wanted = SearchSettings(query=query, index=library.index, target=target, k=5, device=plan.settings.device)
        plan.note("search", wanted)
        with plan.goes.timed("search"):
            results.append(search(wanted))
    return results


def _a_query(plan: _Plan, films: str) -> str:
    """A film of the gallery's store, so that it certainly decodes."""
    store = ClipStore.open(plan.out / "stores" / "gallery")
    used = {clip_id.rpartition("#")[0] for clip_id in store.ids}
    return next(entry.path for entry in read_manifest(films) if entry.name in used)


def _metrics(plan: _Plan, figures: Evaluation, control: Evaluation, train_store: str) -> dict[str, Any]:
    """metrics.json: the run's figures, the control's beside them, and what they cost."""
    gain = {
        way: figures.metrics[way]["R@1"] - control.metrics[way]["R@1"] for way in ("video_to_audio", "audio_to_video")
    }
    return {
        **figures.metrics,
        "from_scratch": control.metrics,
        "pretraining_adds": gain,
        "data": plan.settings.data or "synthetic films, difficulty easy",
        "train_clips": len(ClipStore.open(train_store)),
        "seed": plan.settings.seed,
        "scale": plan.settings.scale,
        **plan.goes.as_json(),
        "machine": machine(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "version": __version__,
    }
