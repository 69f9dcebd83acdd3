"""How fast are clips loaded from a clip store and from videos, next to decoding the store's JPEGs alone?

Decoding alone is an upper bound (`benchmarks.speed.data_ceiling`): as many processes decode the JPEGs with the function that the loader
calls, and no clip can be loaded faster than its JPEGs are decoded. The loaders are those of training: worker processes, shuffled epochs,
the store read through the page cache. All take turns. `prepare` takes turns with FFmpeg's own command, with as many processes.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.speed.bench import BenchReport
from benchmarks.speed.cpu_time import CPUTime, bench_videos
from benchmarks.speed.data_ceiling import ceilings, timed_ffmpeg, timed_prepare
from benchmarks.speed.settings import BenchSettings
from cmmixer.config import ClipSettings, PrepareSettings
from cmmixer.config.data import DataSettings
from cmmixer.data.dataset import ClipDataset, MediaClips, StoreClips, open_clips
from cmmixer.data.loader import ClipBatches
from cmmixer.data.segments import Segment
from cmmixer.data.store import ClipStore
from cmmixer.media.sandbox import worker_count
from cmmixer.progress import Progress
from cmmixer.storage.files import temporary_folder

JPEG, JPEG_AND_AUDIO, STORE, VIDEOS = "jpeg", "jpeg_and_audio", "store", "videos"
NAMES = {
    JPEG: "JPEG decoding only",
    JPEG_AND_AUDIO: "JPEG decoding and reading the audio",
    STORE: "from the clip store",
    VIDEOS: "from videos",
}
_PREPARE_ROUNDS = 3


@dataclass
class Reader:
    """Measurements of one kind of loading.

    Attributes:
        clips_per_second, clips_per_cpu_second: of each turn.
    """

    clips_per_second: list[float] = field(default_factory=list)
    clips_per_cpu_second: list[float] = field(default_factory=list)

    def turn(self, read: Callable[[], int]) -> None:
        """Measures one call of `read`, which returns the number of clips."""
        with CPUTime(fixed_processes=True) as cpu_time:
            started = time.perf_counter()
            clips = read()
            seconds = time.perf_counter() - started
        self.clips_per_second.append(clips / seconds)
        self.clips_per_cpu_second.append(clips / cpu_time.seconds)

    def figures(self) -> dict[str, Any]:
        """Returns the medians over the turns, and their range."""
        return {
            "clips_per_second": statistics.median(self.clips_per_second),
            "clips_per_second_range": [min(self.clips_per_second), max(self.clips_per_second)],
            "clips_per_cpu_second": statistics.median(self.clips_per_cpu_second),
        }


def bench_data(settings: BenchSettings, progress: Progress) -> BenchReport:
    """Prepares videos next to FFmpeg, then loads the videos, the store and its JPEGs in turns.

    Raises:
        SettingsError: the system has no /proc.
        DataError: no video gives a clip, or the disk is full.
    """
    workers = worker_count(settings.workers)
    clip = PrepareSettings(data="videos", out="store", preset=settings.preset).clip_settings(settings.preset)
    with ExitStack() as stack:
        work = stack.enter_context(temporary_folder("cmmixer-bench-"))
        videos = bench_videos(settings, work / "videos", progress)
        # First, so that its decoder processes start as in the command.
        prepared = _measure_prepare(settings, videos, clip, workers, work, progress)
        store = StoreClips(ClipStore.open(work / "store"))
        direct = open_clips(DataSettings(data=videos), clip, workers=workers)
        assert isinstance(direct, MediaClips)
        readers = {name: Reader() for name in NAMES}
        progress.start(settings.rounds, "loading in turns")
        for _ in range(settings.rounds):
            _round(readers, store, direct, settings, workers, work)
            progress.advance()
        figures = {
            "preset": settings.preset,
            "frames": clip.frames,
            "height": clip.height,
            "width": clip.width,
            "audio_bytes_per_clip": 2 * clip.frames * clip.window_samples,
            "batch_size": settings.batch_size,
            "workers": workers,
            "synthetic": settings.videos is None,
            "store": _store_size(work / "store", len(store)),
            "prepare": prepared,
            "reading": {name: reader.figures() for name, reader in readers.items()},
            **_ratios(readers),
            "load_average": os.getloadavg()[0],
        }
    return BenchReport(figures, title(figures), HEADER, table_rows(figures))


def _measure_prepare(
    settings: BenchSettings, videos: str, clip: ClipSettings, workers: int, work: Path, progress: Progress
) -> dict[str, Any]:
    """Runs `prepare` and FFmpeg in turns. Leaves the store."""
    prepare_settings = PrepareSettings(
        data=videos, out=str(work / "store"), preset=settings.preset, workers=workers, overwrite=True
    )
    rounds = min(settings.rounds, _PREPARE_ROUNDS)
    progress.start(rounds, "preparing, in turns with FFmpeg")
    timed_prepare(prepare_settings)  # reads the videos into the page cache
    stored = set(ClipStore.open(work / "store").ids)
    segments = [segment for segment in _segments(videos, clip, workers) if segment.id in stored]
    ours, theirs = [], []
    for _ in range(rounds):
        ours.append(timed_prepare(prepare_settings))
        theirs.append(timed_ffmpeg(segments, clip, workers, work / "ffmpeg"))
        progress.advance()
    count = len({segment.path for segment in segments})
    seconds, cpu_seconds = (statistics.median(column) for column in zip(*ours, strict=True))
    figures: dict[str, Any] = {
        "videos": count,
        "clips": len(segments),
        "video_seconds": sum(segment.span.duration_seconds for segment in segments),
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "videos_per_second": count / seconds,
        "clips_per_cpu_second": len(segments) / cpu_seconds,
        "ffmpeg": None,
    }
    ffmpeg = [times for times in theirs if times is not None]
    if ffmpeg:
        figures["ffmpeg"] = {
            "seconds": statistics.median(times[0] for times in ffmpeg),
            "cpu_seconds": statistics.median(times[1] for times in ffmpeg),
        }
        figures["times_ffmpeg"] = statistics.median(a[0] / b[0] for a, b in zip(ours, ffmpeg, strict=True))
        figures["times_ffmpeg_cpu"] = statistics.median(a[1] / b[1] for a, b in zip(ours, ffmpeg, strict=True))
    return figures


def _segments(videos: str, clip: ClipSettings, workers: int) -> list[Segment]:
    dataset = open_clips(DataSettings(data=videos), clip, workers=workers)
    assert isinstance(dataset, MediaClips)
    return dataset.segments


def _round(
    readers: dict[str, Reader], store: StoreClips, direct: MediaClips, settings: BenchSettings, workers: int, work: Path
) -> None:
    """Runs a turn of each kind in new processes: decoding takes a third longer in some processes than in others, by the placement of memory."""
    with ceilings(store, work, workers, settings.turn_seconds) as (jpeg, jpeg_and_audio):
        reads = {
            JPEG: jpeg,
            JPEG_AND_AUDIO: jpeg_and_audio,
            STORE: _loader(store, settings, workers),
            VIDEOS: _loader(direct, settings, workers),
        }
        for read in reads.values():
            read()  # starts processes and reads files into the page cache
        for name, read in reads.items():
            readers[name].turn(read)


def _loader(dataset: ClipDataset, settings: BenchSettings, workers: int) -> Callable[[], int]:
    """Returns a function that loads an epoch of about `turn_seconds` with the loader of training."""
    batch = settings.batch_size
    sample = [number % len(dataset) for number in range(batch)]
    dataset.read(sample)
    started = time.perf_counter()
    dataset.read(sample)
    clip_seconds = (time.perf_counter() - started) / batch
    steps = max(2 * workers, round(settings.turn_seconds * workers / clip_seconds / batch))
    batches = ClipBatches(_repeat(dataset, steps * batch), batch_size=batch, seed=settings.seed, num_workers=workers)
    epochs = iter(range(1 << 30))

    def read() -> int:
        return sum(len(loaded) for loaded in batches.epoch(next(epochs)))

    return read


def _repeat(dataset: ClipDataset, count: int) -> ClipDataset:
    """Repeats the clips of a data set until there are `count`."""
    numbers = [number % len(dataset) for number in range(count)]
    if isinstance(dataset, MediaClips):
        return MediaClips([dataset.segments[number] for number in numbers], dataset.spec)
    assert isinstance(dataset, StoreClips)
    repeated = StoreClips(dataset.store)
    repeated.rows, repeated.ids, repeated.sources, repeated.labels = (
        [column[number] for number in numbers]
        for column in (dataset.rows, dataset.ids, dataset.sources, dataset.labels)
    )
    return repeated


def _store_size(folder: Path, clips: int) -> dict[str, float]:
    total = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return {"clips": clips, "bytes_per_clip": total / clips}


def _ratios(readers: dict[str, Reader]) -> dict[str, float]:
    """Computes ratios between turns of the same round, by wall time and by CPU time."""

    def median(first: str, second: str, name: str) -> float:
        pairs = zip(getattr(readers[first], name), getattr(readers[second], name), strict=True)
        return float(statistics.median(a / b for a, b in pairs))

    return {
        "store_share_of_ceiling": median(STORE, JPEG, "clips_per_second"),
        "store_share_of_ceiling_cpu": median(STORE, JPEG, "clips_per_cpu_second"),
        "store_share_of_ceiling_with_audio_cpu": median(STORE, JPEG_AND_AUDIO, "clips_per_cpu_second"),
        "store_times_videos": median(STORE, VIDEOS, "clips_per_second"),
        "store_times_videos_cpu": median(STORE, VIDEOS, "clips_per_cpu_second"),
    }


HEADER = ["", "clips/s", "lowest", "highest", "clips per CPU second"]


def table_rows(figures: dict[str, Any]) -> list[list[str]]:
    """Returns a row per kind of loading, the upper bounds first, then preparing."""
    rows = []
    for name, row in figures["reading"].items():
        low, high = row["clips_per_second_range"]
        values = (row["clips_per_second"], low, high, row["clips_per_cpu_second"])
        rows.append([NAMES[name], *(f"{value:.1f}" for value in values)])
    prepared = figures["prepare"]
    clips = prepared["clips"]
    for name, row in (("prepare", prepared), ("FFmpeg, same seeks and scaling", prepared["ffmpeg"])):
        if row is None:
            rows.append([name, "not measured: ffmpeg is not installed", "", "", ""])
        else:
            rows.append([name, f"{clips / row['seconds']:.1f}", "", "", f"{clips / row['cpu_seconds']:.1f}"])
    return rows


def title(figures: dict[str, Any]) -> str:
    """Summarizes the figures in one line."""
    prepared = figures["prepare"]
    ffmpeg = f"; prepare takes {prepared['times_ffmpeg']:.2f}x as long as FFmpeg" if prepared["ffmpeg"] else ""
    return (
        f"{figures['preset']}, {figures['frames']} frames of {figures['height']} x {figures['width']}, {figures['workers']} processes: the store reaches "
        f"{figures['store_share_of_ceiling']:.0%} of the upper bound ({figures['store_share_of_ceiling_cpu']:.0%} by CPU time), "
        f"{figures['store_times_videos']:.1f}x loading videos{ffmpeg}"
    )
