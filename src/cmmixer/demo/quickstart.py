"""`cmmixer quickstart`: all steps from videos to search in one command. Each step is also a command of its own.

videos -> prepare -> pretrain -> finetune (and a baseline without pre-training) -> evaluate -> index -> search -> report
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
from cmmixer.config.fields import accepts_settings
from cmmixer.data.manifest import Entry, read_manifest, split_by_source
from cmmixer.data.prepare import prepare
from cmmixer.data.store import ClipStore
from cmmixer.demo.stopwatch import Stopwatch, describe_minutes
from cmmixer.errors import DataError, InputError, SettingsError
from cmmixer.evaluation.evaluate import Evaluation, evaluate
from cmmixer.progress import NoProgress, Progress
from cmmixer.retrieval.build import index
from cmmixer.retrieval.search import SearchResult, search
from cmmixer.runtime import describe_machine
from cmmixer.storage.files import explain_full_disk, write_atomically
from cmmixer.synthetic.generate import synthesize
from cmmixer.train.finetune import finetune
from cmmixer.train.pretrain import pretrain
from cmmixer.version import __version__

PRESET = "nano"
GALLERY_VIDEOS = 200
TRAIN_VIDEOS = 1200
# Clips seen by each training run at scale 1. A short pre-training before longer contrastive training is the best row of
# docs/study.md.
PRETRAIN_VIEWS = 9_600
FINETUNE_VIEWS = 24_000
# Larger batches or a larger learning rate gave towers that retrieve worse than the baseline; see docs/lab-notebook.md.
PRETRAIN_BATCH = 16
PRETRAIN_LR = 3e-4
# Beta(alpha, alpha) with so small an alpha yields almost only 0 and 1: each frame is all video or all audio (frame swap), and the
# network has to infer one modality from the other. This gave the best towers of all mixing modes.
FRAME_SWAP_ALPHA = 1e-3
FINETUNE_BATCH = 64
FINETUNE_LR = 1e-3
# The decoded clips of a quickstart take a quarter of it.
KEEP_GB = 1.0
GALLERY_PART = 0.25
# In the synthetic videos, size and height determine the sound of a body. A resized crop would change both.
SYNTHETIC_CROP_SCALE = 1.0
MINUTES = "minutes.json"
# Files and folders of a quickstart; --overwrite removes them.
OUTPUTS = (
    "videos",
    "stores",
    "pretrain",
    "finetune",
    "baseline",
    "index",
    "gallery.json",
    "metrics.json",
    "report.html",
    "quickstart.json",
    MINUTES,
)
# Users have few videos, so their clips overlap.
USER_STRIDE_SECONDS = 1.0


@dataclass(frozen=True)
class QuickstartResult:
    """Outputs and metrics of a quickstart.

    Attributes:
        out: the folder.
        report: HTML file to open in a browser.
        metrics: as in metrics.json.
        searches: one in each direction.
    """

    out: Path
    report: Path
    metrics: dict[str, Any]
    searches: list[SearchResult]

    def as_json(self) -> dict[str, Any]:
        """Returns the metrics."""
        return self.metrics

    def render(self) -> RenderableType:
        """Returns a short table of results, and the commands to try next."""
        table = Table(title=f"{self.metrics['candidates']} unseen videos", title_justify="left")
        table.add_column("R@1: right one ranked first")
        for column in ("with pre-training", "no pre-training (baseline)", "chance"):
            table.add_column(column, justify="right")
        for way, words in (("video_to_audio", "silent video -> its sound"), ("audio_to_video", "sound -> its video")):
            baseline = self.metrics["baseline"][way]["R@1"]
            values = (self.metrics[way]["R@1"], baseline, self.metrics["chance"]["R@1"])
            table.add_row(words, *(f"{value:.3f}" for value in values))
        index_folder, run = self.out / "index", self.out / "finetune"
        return Group(
            table,
            f"took {describe_minutes(self.metrics)}; open {self.report} in a browser",
            f"next: cmmixer serve --index {index_folder}    (search and listen in a browser)",
            f"      cmmixer search --index {index_folder} YOUR_VIDEO.mp4 --for audio",
            f"      cmmixer index --model {run} --data YOUR_FOLDER --index library",
        )


@dataclass
class _Quickstart:
    """A quickstart in progress: its settings, minutes, and the commands that do the same."""

    settings: QuickstartSettings
    out: Path = field(init=False)
    stopwatch: Stopwatch = field(init=False)
    commands: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.out = Path(self.settings.out)
        self.stopwatch = Stopwatch(self.out / MINUTES)

    def videos(self, count: int) -> int:
        return max(8, round(count * self.settings.scale))

    @property
    def crop_scale_min(self) -> float:
        """Smallest area of the random resized crop."""
        return SYNTHETIC_CROP_SCALE if self.settings.data is None else PretrainSettings.crop_scale_min

    def epochs(self, views: int, clips: int, batch: int) -> int:
        """Number of epochs, at least one, in which about `views` clips are seen."""
        per_epoch = clips // batch * batch
        return max(1, round(views * self.settings.scale / per_epoch))

    def note(self, command: str, settings: object) -> None:
        """Records the equivalent command line for the report."""
        self.commands.append(command_line(command, settings))


@accepts_settings(QuickstartSettings)
def quickstart(settings: QuickstartSettings, progress: Progress | None = None) -> QuickstartResult:
    """Runs all steps. A second call resumes: finished steps are not run again.

    Raises:
        InputError: the videos or the folder cannot be used.
    """
    progress = progress or NoProgress()
    with explain_full_disk(Path(settings.out), InputError):
        _open_folder(Path(settings.out), settings)
    job = _Quickstart(settings)
    with job.stopwatch:
        return _all_steps(job, progress)


def _all_steps(job: _Quickstart, progress: Progress) -> QuickstartResult:
    train_videos, gallery_videos = _videos(job, progress)
    train, gallery = (
        _prepare(job, videos, name, progress) for videos, name in ((train_videos, "train"), (gallery_videos, "gallery"))
    )
    _pretrain(job, train, progress)
    _finetune(job, train, "finetune", str(job.out / "pretrain"), progress)
    _finetune(job, train, "baseline", None, progress)
    pretrained = _evaluate(job, gallery, "finetune", progress)
    baseline = _evaluate(job, gallery, "baseline", progress)
    searches = _index_and_search(job, gallery_videos, progress)
    metrics = _metrics(job, pretrained, baseline, train)
    write_atomically(job.out / "metrics.json", json.dumps(metrics, indent=1) + "\n")
    from cmmixer.demo.report import write_quickstart_report

    progress.start(None, "writing the report")
    page = write_quickstart_report(job.out, metrics, pretrained, baseline, gallery_videos, job.commands)
    return QuickstartResult(job.out, page, metrics, searches)


def _open_folder(out: Path, settings: QuickstartSettings) -> None:
    """Creates the folder, or checks that it holds a quickstart with the same settings.

    Raises:
        SettingsError: the folder holds a quickstart with other settings.
    """
    out.mkdir(parents=True, exist_ok=True)
    metadata, wanted = out / "quickstart.json", {name: getattr(settings, name) for name in ("data", "scale", "seed")}
    if settings.overwrite:
        for name in OUTPUTS:
            shutil.rmtree(out / name) if (out / name).is_dir() else (out / name).unlink(missing_ok=True)
    elif metadata.exists():
        existing = json.loads(metadata.read_text())
        differ = [
            f"{name} is {existing.get(name)!r} there, {value!r} here"
            for name, value in wanted.items()
            if existing.get(name) != value
        ]
        if differ:
            raise SettingsError(
                f"{out}: holds a quickstart with other settings: {'; '.join(differ)}; choose another --out, or --overwrite"
            )
    write_atomically(metadata, json.dumps(wanted) + "\n")


def _videos(job: _Quickstart, progress: Progress) -> tuple[str, str]:
    """Returns the data for training and for the gallery: synthetic videos, or the user's own, split by source."""
    settings = job.settings
    if settings.data is not None:
        return _user_videos(job, settings.data)
    folders = []
    for name, count, seed in (
        ("train", TRAIN_VIDEOS, 2 * settings.seed + 1),
        ("gallery", GALLERY_VIDEOS, 2 * settings.seed + 2),
    ):
        videos = SynthesizeSettings(
            clips=job.videos(count),
            out=str(job.out / "videos" / name),
            seed=seed,
            difficulty="easy",
            workers=settings.workers,
        )
        job.note("synthesize", videos)
        with job.stopwatch.timed("synthesize"):
            synthesize(videos, progress)
        folders.append(videos.out)
    return folders[0], folders[1]


def _user_videos(job: _Quickstart, data: str) -> tuple[str, str]:
    """Splits the user's videos: by the column `split` if there is one, otherwise a quarter of the sources is the gallery."""
    entries = read_manifest(data)
    train = [entry for entry in entries if entry.split == "train"]
    gallery = [entry for entry in entries if entry.split in ("gallery", "test", "val")]
    if not (train and gallery):
        train, gallery = split_by_source(entries, GALLERY_PART, job.settings.seed)
    shared = {entry.source for entry in train} & {entry.source for entry in gallery}
    if shared:
        raise DataError(
            f"{data}: {len(shared)} sources are in both splits, such as {sorted(shared)[0]}; expected each source in one split"
        )
    folder = job.out / "videos"
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


def _prepare(job: _Quickstart, videos: str, name: str, progress: Progress) -> str:
    is_user_data = job.settings.data is not None
    store = PrepareSettings(
        data=videos,
        out=str(job.out / "stores" / name),
        preset=PRESET,
        stride_seconds=USER_STRIDE_SECONDS if is_user_data and name == "train" else None,
        workers=job.settings.workers,
    )
    job.note("prepare", store)
    with job.stopwatch.timed("prepare"):
        prepare(store, progress)
    return store.out


def _pretrain(job: _Quickstart, store: str, progress: Progress) -> None:
    clips = len(ClipStore.open(store))
    batch = min(PRETRAIN_BATCH, clips)
    epochs = job.epochs(PRETRAIN_VIEWS, clips, batch)
    settings = PretrainSettings(
        data=store,
        out=str(job.out / "pretrain"),
        preset=PRESET,
        epochs=epochs,
        batch_size=batch,
        lr=PRETRAIN_LR,
        mixup_alpha=FRAME_SWAP_ALPHA,
        cutmix_alpha=0.0,
        warmup_epochs=epochs / 10,
        crop_scale_min=job.crop_scale_min,
        seed=job.settings.seed,
        num_workers=0,
        keep_gb=KEEP_GB,
        device=job.settings.device,
        image_epochs=0,
    )
    job.note("pretrain", settings)
    with job.stopwatch.timed("pretrain"):
        pretrain(settings, progress)


def _finetune(job: _Quickstart, store: str, name: str, init: str | None, progress: Progress) -> None:
    clips = len(ClipStore.open(store))
    batch = min(FINETUNE_BATCH, clips)
    epochs = job.epochs(FINETUNE_VIEWS, clips, batch)
    settings = FinetuneSettings(
        data=store,
        out=str(job.out / name),
        init=init,
        preset=None if init else PRESET,
        epochs=epochs,
        batch_size=batch,
        lr=FINETUNE_LR,
        warmup_epochs=epochs / 10,
        embed_dim=128,
        crop_scale_min=job.crop_scale_min,
        seed=job.settings.seed,
        num_workers=0,
        keep_gb=KEEP_GB,
        device=job.settings.device,
    )
    job.note("finetune", settings)
    with job.stopwatch.timed(name):
        finetune(settings, progress)


def _evaluate(job: _Quickstart, store: str, name: str, progress: Progress) -> Evaluation:
    settings = EvaluateSettings(
        model=str(job.out / name),
        data=store,
        gallery=str(job.out / "gallery.json"),
        rerank="sequence",
        num_workers=0,
        device=job.settings.device,
        out=str(job.out / name / "metrics.json"),
        rankings=str(job.out / name / "rankings.jsonl"),
    )
    job.note("evaluate", settings)
    with job.stopwatch.timed("evaluate"):
        return evaluate(settings, progress)


def _index_and_search(job: _Quickstart, videos: str, progress: Progress) -> list[SearchResult]:
    """Indexes the gallery's videos and searches them in both directions with one of them."""
    library = IndexSettings(
        model=str(job.out / "finetune"),
        data=videos,
        index=str(job.out / "index"),
        workers=job.settings.workers,
        device=job.settings.device,
    )
    job.note("index", library)
    with job.stopwatch.timed("index"):
        index(library, progress)
    query = _some_query(job, videos)
    results = []
    for target in ("audio", "video"):
        query_settings = SearchSettings(
            query=query, index=library.index, target=target, k=5, device=job.settings.device
        )
        job.note("search", query_settings)
        with job.stopwatch.timed("search"):
            results.append(search(query_settings))
    return results


def _some_query(job: _Quickstart, videos: str) -> str:
    """Returns the first gallery video that is in the clip store, and so can be decoded."""
    store = ClipStore.open(job.out / "stores" / "gallery")
    used = {clip_id.rpartition("#")[0] for clip_id in store.ids}
    return next(entry.path for entry in read_manifest(videos) if entry.name in used)


def _metrics(job: _Quickstart, pretrained: Evaluation, baseline: Evaluation, train_store: str) -> dict[str, Any]:
    """Returns the content of metrics.json: metrics with pre-training, of the baseline, and the time it took."""
    gain = {
        way: pretrained.metrics[way]["R@1"] - baseline.metrics[way]["R@1"]
        for way in ("video_to_audio", "audio_to_video")
    }
    return {
        **pretrained.metrics,
        "baseline": baseline.metrics,
        "pretraining_gain": gain,
        "data": job.settings.data or "synthetic videos, difficulty easy",
        "train_clips": len(ClipStore.open(train_store)),
        "seed": job.settings.seed,
        "scale": job.settings.scale,
        **job.stopwatch.as_json(),
        "machine": describe_machine(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "version": __version__,
    }
